// silu_mul: element by element, so out may be gate or up itself.
#include <cstddef>

#include "ops.h"

namespace kvasir {
namespace {

using Args = kvasir_silu_mul_args;

constexpr Field kFields[] = {
    field::input("gate", offsetof(Args, gate)),
    field::input("up", offsetof(Args, up)),
    field::output("out", offsetof(Args, out)),
};

kvasir_status check(const void* raw, kvasir_error* err) {
  const Args& a = *static_cast<const Args*>(raw);
  Match m(err);
  Dim rows{"rows"}, width{"width"};
  Type type{kComputeDtypes};
  m.rows("gate", a.gate, type, {&rows, &width}).rows("up", a.up, type, {&rows, &width}).rows("out", a.out, type, {&rows, &width});
  m.disjoint_or_same("out", a.out, "gate", a.gate).disjoint_or_same("out", a.out, "up", a.up);
  return m.status();
}

}  // namespace

constinit const Contract silu_mul_contract{"silu_mul", sizeof(Args), kFields, no_defaults, check};

}  // namespace kvasir
