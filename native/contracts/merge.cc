// merge: partial attention results joined into one. out may not be one of the parts.
#include <cstddef>

#include "ops.h"

namespace kvasir {
namespace {

using Args = kvasir_merge_args;

constexpr Field kFields[] = {
    field::input("parts", offsetof(Args, parts)),
    field::input("partsLse", offsetof(Args, parts_lse)),
    field::output("out", offsetof(Args, out)),
    field::optional_output("lse", offsetof(Args, lse)),
};

kvasir_status check(const void* raw, kvasir_error* err) {
  const Args& a = *static_cast<const Args*>(raw);
  Match m(err);
  Dim parts{"num_parts"}, total_q{"total_q"}, heads{"num_qo_heads"}, dim{"head_dim"};
  Type type{kComputeDtypes};
  m.dtype("parts", a.parts, kComputeDtypes)
      .shape("parts", a.parts, {&parts, &total_q, &heads, &dim})
      .contiguous_rows("parts", a.parts);
  m.expect(parts.value >= 1, "[SHAPE] parts[num_parts] is %lld, expected at least 1", static_cast<long long>(parts.value));
  if (m.ok()) check_head_dim(m, dim);
  m.dense("partsLse", a.parts_lse, kOnlyF32, {&parts, &total_q, &heads});
  m.rows("out", a.out, type, {&total_q, &heads, &dim});
  m.expect(a.parts.dtype == KVASIR_F32 || a.parts.dtype == a.out.dtype,
           "[DTYPE] parts is %s, expected f32 or the dtype of out, %s", dtype_name(a.parts.dtype), dtype_name(a.out.dtype));
  m.dense("lse", a.lse, kOnlyF32, {&total_q, &heads});
  m.disjoint("out", a.out, "parts", a.parts).disjoint("out", a.out, "partsLse", a.parts_lse);
  m.disjoint("lse", a.lse, "parts", a.parts).disjoint("lse", a.lse, "partsLse", a.parts_lse).disjoint("lse", a.lse, "out", a.out);
  return m.status();
}

}  // namespace

constinit const Contract merge_contract{"merge", sizeof(Args), kFields, no_defaults, check};

}  // namespace kvasir
