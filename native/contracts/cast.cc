// cast: another dtype, another layout, or both; shapes are equal.
#include <cstddef>

#include "ops.h"

namespace kvasir {
namespace {

using Args = kvasir_cast_args;

constexpr Field kFields[] = {
    field::input("x", offsetof(Args, x)),
    field::output("out", offsetof(Args, out)),
};

kvasir_status check(const void* raw, kvasir_error* err) {
  const Args& a = *static_cast<const Args*>(raw);
  Match m(err);
  m.dtype("x", a.x, kFloatDtypes | kOnlyI32);
  m.dtype("out", a.out, a.x.dtype == KVASIR_I32 ? kOnlyI32 : kFloatDtypes);
  m.expect(a.x.rank == a.out.rank, "[SHAPE] out has rank %d, expected %d, from x", a.out.rank, a.x.rank);
  for (int i = 0; m.ok() && i < a.x.rank; ++i) {
    m.expect(a.x.shape[i] == a.out.shape[i], "[SHAPE] out[dimension %d] is %lld, expected %lld, from x", i,
             static_cast<long long>(a.out.shape[i]), static_cast<long long>(a.x.shape[i]));
  }
  m.disjoint("out", a.out, "x", a.x);
  return m.status();
}

}  // namespace

constinit const Contract cast_contract{"cast", sizeof(Args), kFields, no_defaults, check};

}  // namespace kvasir
