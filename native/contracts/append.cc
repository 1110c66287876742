// append: new keys and values into pages, rotated on the way in.
#include <cstddef>

#include "ops.h"

namespace kvasir {
namespace {

using Args = kvasir_append_args;

constexpr Field kFields[] = {
    field::input("k", offsetof(Args, k)),
    field::input("v", offsetof(Args, v)),
    field::optional_in_out("q", offsetof(Args, q)),
    field::input("positions", offsetof(Args, positions)),
    field::input("slotMapping", offsetof(Args, slot_mapping)),
    field::in_out("pages", offsetof(Args, pages)),
    field::input("pageOffsets", offsetof(Args, page_offsets)),
    field::optional_input("invFreq", offsetof(Args, inv_freq)),
    field::number("ropeScale", offsetof(Args, rope_scale)),
    field::integer("pageSize", offsetof(Args, page_size)),
    field::flag("storeRotated", offsetof(Args, store_rotated)),
};

void defaults(void* raw) {
  Args& a = *static_cast<Args*>(raw);
  a.rope_scale = 1.f;
  a.store_rotated = 1;
}

kvasir_status check(const void* raw, kvasir_error* err) {
  const Args& a = *static_cast<const Args*>(raw);
  Match m(err);
  Dim total{"total"}, kv_heads{"num_kv_heads"}, qo_heads{"num_qo_heads"}, dim{"head_dim"};
  Dim slots{"num_page_slots"}, elements{"elements_per_page"}, pair{"k|v", 2};
  Type type{kComputeDtypes};
  m.rows("k", a.k, type, {&total, &kv_heads, &dim}).aligned_rows("k", a.k, 16);
  if (m.ok()) check_head_dim(m, dim);
  m.rows("v", a.v, type, {&total, &kv_heads, &dim}).aligned_rows("v", a.v, 16);
  m.rows("q", a.q, type, {&total, &qo_heads, &dim}).aligned_rows("q", a.q, 16);
  m.expect(!present(a.q) || present(a.inv_freq),
           "q was given without invFreq: it is there to be rotated; pass invFreq or leave q out");
  m.dense("positions", a.positions, kOnlyI32, {&total});
  m.dense("slotMapping", a.slot_mapping, kOnlyI32, {&total});
  check_page_size(m, a.page_size);
  m.rows("pages", a.pages, type, {&slots, &elements});
  if (m.ok()) check_pages(m, a.pages, a.page_size, dim);
  m.dense("pageOffsets", a.page_offsets, kOnlyI32, {&kv_heads, &pair});
  if (m.ok()) check_inv_freq(m, "invFreq", a.inv_freq, dim);
  m.finite("ropeScale", a.rope_scale);
  m.disjoint("pages", a.pages, "k", a.k).disjoint("pages", a.pages, "v", a.v);
  m.disjoint("q", a.q, "k", a.k).disjoint("q", a.q, "v", a.v).disjoint("q", a.q, "pages", a.pages);
  return m.status();
}

}  // namespace

constinit const Contract append_contract{"append", sizeof(Args), kFields, defaults, check};

}  // namespace kvasir
