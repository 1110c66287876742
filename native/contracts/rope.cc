// rope: x rotated in place by its positions.
#include <cstddef>

#include "ops.h"

namespace kvasir {
namespace {

using Args = kvasir_rope_args;

constexpr Field kFields[] = {
    field::in_out("x", offsetof(Args, x)),
    field::input("positions", offsetof(Args, positions)),
    field::input("invFreq", offsetof(Args, inv_freq)),
    field::number("ropeScale", offsetof(Args, rope_scale)),
};

void defaults(void* raw) {
  Args& a = *static_cast<Args*>(raw);
  a.rope_scale = 1.f;
}

kvasir_status check(const void* raw, kvasir_error* err) {
  const Args& a = *static_cast<const Args*>(raw);
  Match m(err);
  Dim total{"total"}, heads{"heads"}, dim{"head_dim"};
  Type type{kComputeDtypes};
  m.rows("x", a.x, type, {&total, &heads, &dim});
  if (m.ok()) check_head_dim(m, dim);
  m.dense("positions", a.positions, kOnlyI32, {&total});
  if (m.ok()) check_inv_freq(m, "invFreq", a.inv_freq, dim);
  m.finite("ropeScale", a.rope_scale);
  return m.status();
}

}  // namespace

constinit const Contract rope_contract{"rope", sizeof(Args), kFields, defaults, check};

}  // namespace kvasir
