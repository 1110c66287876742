// probe_fma: busy multiply-add units, for the arithmetic ceiling.
#include <cstddef>

#include "ops.h"

namespace kvasir {
namespace {

using Args = kvasir_probe_fma_args;

constexpr Field kFields[] = {
    field::output("out", offsetof(Args, out)),
    field::integer("iterations", offsetof(Args, iterations)),
};

void defaults(void* raw) {
  Args& a = *static_cast<Args*>(raw);
  a.iterations = 1;
}

kvasir_status check(const void* raw, kvasir_error* err) {
  const Args& a = *static_cast<const Args*>(raw);
  Match m(err);
  Dim one{"1", 1};
  m.dense("out", a.out, kOnlyI32, {&one});
  m.expect(a.iterations >= 1, "iterations is %d, expected at least 1", a.iterations);
  return m.status();
}

}  // namespace

constinit const Contract probe_fma_contract{"probe_fma", sizeof(Args), kFields, defaults, check};

}  // namespace kvasir
