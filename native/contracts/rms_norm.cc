// rms_norm: out may be x itself; residual is memory of its own.
#include <cstddef>

#include "ops.h"

namespace kvasir {
namespace {

using Args = kvasir_rms_norm_args;

constexpr Field kFields[] = {
    field::input("x", offsetof(Args, x)),
    field::input("weight", offsetof(Args, weight)),
    field::optional_in_out("residual", offsetof(Args, residual)),
    field::output("out", offsetof(Args, out)),
    field::number("eps", offsetof(Args, eps)),
};

void defaults(void* raw) {
  Args& a = *static_cast<Args*>(raw);
  a.eps = 1e-5f;
}

kvasir_status check(const void* raw, kvasir_error* err) {
  const Args& a = *static_cast<const Args*>(raw);
  Match m(err);
  Dim rows{"rows"}, hidden{"hidden"};
  Type type{kComputeDtypes};
  m.rows("x", a.x, type, {&rows, &hidden});
  m.expect(hidden.value >= 1, "[SHAPE] x[hidden] is %lld, expected at least 1", static_cast<long long>(hidden.value));
  m.rows("weight", a.weight, type, {&hidden});
  m.rows("residual", a.residual, type, {&rows, &hidden});
  m.rows("out", a.out, type, {&rows, &hidden});
  m.expect(std::isfinite(a.eps) && a.eps > 0, "eps is %g, expected a finite number above 0, such as 1e-5",
           static_cast<double>(a.eps));
  m.disjoint_or_same("out", a.out, "x", a.x).disjoint("out", a.out, "weight", a.weight);
  m.disjoint("residual", a.residual, "x", a.x)
      .disjoint("residual", a.residual, "out", a.out)
      .disjoint("residual", a.residual, "weight", a.weight);
  return m.status();
}

}  // namespace

constinit const Contract rms_norm_contract{"rms_norm", sizeof(Args), kFields, defaults, check};

}  // namespace kvasir
