// linear: weight rows are output features, as checkpoints store them.
#include <cstddef>

#include "ops.h"

namespace kvasir {
namespace {

using Args = kvasir_linear_args;

constexpr Field kFields[] = {
    field::input("x", offsetof(Args, x)),
    field::input("weight", offsetof(Args, weight)),
    field::optional_input("bias", offsetof(Args, bias)),
    field::output("out", offsetof(Args, out)),
    field::flag("batchInvariant", offsetof(Args, batch_invariant)),
};

kvasir_status check(const void* raw, kvasir_error* err) {
  const Args& a = *static_cast<const Args*>(raw);
  Match m(err);
  Dim rows{"rows"}, in_features{"in_features"}, out_features{"out_features"};
  Type type{kComputeDtypes};
  m.rows("x", a.x, type, {&rows, &in_features});
  m.rows("weight", a.weight, type, {&out_features, &in_features});
  m.rows("bias", a.bias, type, {&out_features});
  m.dtype("out", a.out, kComputeDtypes).shape("out", a.out, {&rows, &out_features}).contiguous_rows("out", a.out);
  m.expect(a.out.dtype == KVASIR_F32 || a.out.dtype == a.x.dtype, "[DTYPE] out is %s, expected f32 or the dtype of x, %s",
           dtype_name(a.out.dtype), dtype_name(a.x.dtype));
  m.disjoint("out", a.out, "x", a.x).disjoint("out", a.out, "weight", a.weight).disjoint("out", a.out, "bias", a.bias);
  return m.status();
}

}  // namespace

constinit const Contract linear_contract{"linear", sizeof(Args), kFields, no_defaults, check};

}  // namespace kvasir
