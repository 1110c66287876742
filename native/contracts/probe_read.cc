// probe_read: a pass over memory, for the read ceiling; whole 32-bit words.
#include <cstddef>

#include "ops.h"

namespace kvasir {
namespace {

using Args = kvasir_probe_read_args;

constexpr Field kFields[] = {
    field::input("x", offsetof(Args, x)),
    field::output("out", offsetof(Args, out)),
};

kvasir_status check(const void* raw, kvasir_error* err) {
  const Args& a = *static_cast<const Args*>(raw);
  Match m(err);
  Dim one{"1", 1};
  m.contiguous("x", a.x).dense("out", a.out, kOnlyI32, {&one});
  m.expect(element_count(a.x) * dtype_bytes(a.x.dtype) % 4 == 0, "[SHAPE] x has %lld bytes, expected a multiple of 4",
           static_cast<long long>(element_count(a.x) * dtype_bytes(a.x.dtype)));
  m.disjoint("out", a.out, "x", a.x);
  return m.status();
}

}  // namespace

constinit const Contract probe_read_contract{"probe_read", sizeof(Args), kFields, no_defaults, check};

}  // namespace kvasir
