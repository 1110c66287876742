// attention and its float64 reference: one contract. KV is ragged (k, v) or paged (pages and its table), never both.
#include <cstddef>
#include <utility>

#include "../core/attention_batch.h"
#include "ops.h"

namespace kvasir {
namespace {

using Args = kvasir_attention_args;

constexpr Field kFields[] = {
    field::input("q", offsetof(Args, q)),
    field::output("out", offsetof(Args, out)),
    field::optional_output("lse", offsetof(Args, lse)),
    field::optional_input("k", offsetof(Args, k)),
    field::optional_input("v", offsetof(Args, v)),
    field::optional_input("qoIndptr", offsetof(Args, qo_indptr)),
    field::optional_input("kvIndptr", offsetof(Args, kv_indptr)),
    field::optional_input("pages", offsetof(Args, pages)),
    field::optional_input("pageOffsets", offsetof(Args, page_offsets)),
    field::optional_input("rowStart", offsetof(Args, row_start)),
    field::optional_input("kvLen", offsetof(Args, kv_len)),
    field::optional_input("pageIndices", offsetof(Args, page_indices)),
    field::optional_input("pageStart", offsetof(Args, page_start)),
    field::optional_input("pageLen", offsetof(Args, page_len)),
    field::optional_input("qStart", offsetof(Args, q_start)),
    field::optional_input("logWeight", offsetof(Args, log_weight)),
    field::optional_input("sink", offsetof(Args, sink)),
    field::optional_input("kInvFreq", offsetof(Args, k_inv_freq)),
    field::number("kRopeScale", offsetof(Args, k_rope_scale)),
    field::number("smScale", offsetof(Args, sm_scale)),
    field::number("logitsSoftCap", offsetof(Args, logits_soft_cap)),
    field::integer("windowLeft", offsetof(Args, window_left)),
    field::integer("pageSize", offsetof(Args, page_size)),
    field::flag("causal", offsetof(Args, causal)),
    field::flag("perHeadRows", offsetof(Args, per_head_rows)),
    field::flag("batchInvariant", offsetof(Args, batch_invariant)),
    field::integer("numSplits", offsetof(Args, num_splits)),
};

void defaults(void* raw) {
  Args& a = *static_cast<Args*>(raw);
  a.k_rope_scale = 1.f;
  a.window_left = -1;
}

void check_scalars(Match& m, const Args& a) {
  m.expect(std::isfinite(a.sm_scale) && a.sm_scale >= 0,
           "smScale is %g, expected a finite number above 0, or leave it out for 1 / sqrt(head_dim)",
           static_cast<double>(a.sm_scale));
  m.expect(std::isfinite(a.logits_soft_cap) && a.logits_soft_cap >= 0,
           "logitsSoftCap is %g, expected a finite number above 0, or leave it out for no cap",
           static_cast<double>(a.logits_soft_cap));
  m.finite("kRopeScale", a.k_rope_scale);
  m.expect(a.window_left >= -1, "windowLeft is %d, expected 0 or more keys, or -1 for no window", a.window_left);
  m.expect(a.num_splits >= 0, "numSplits is %d, expected 1 or more, or 0 to let the backend choose", a.num_splits);
}

struct Dims {
  Dim total_q{"total_q"}, total_kv{"total_kv"}, qo_heads{"num_qo_heads"}, kv_heads{"num_kv_heads"}, head_dim{"head_dim"};
  Dim rows{"rows"}, entries{"entries"};
};

void check_ragged(Match& m, const Args& a, Dims& d, Type& type) {
  m.expect(present(a.k) && present(a.v), "%s is missing: ragged KV needs both k and v", present(a.k) ? "v" : "k");
  const std::pair<const char*, const kvasir_tensor*> paged_only[] = {
      {"pageOffsets", &a.page_offsets}, {"rowStart", &a.row_start},   {"kvLen", &a.kv_len},
      {"pageIndices", &a.page_indices}, {"pageStart", &a.page_start}, {"pageLen", &a.page_len}};
  for (const auto& [name, tensor] : paged_only) {
    m.expect(!present(*tensor), "%s belongs to paged KV, but k and v were given; leave it out, or pass pages instead of k and v",
             name);
  }
  m.expect(a.page_size == 0,
           "pageSize belongs to paged KV, but k and v were given; leave it out, or pass pages instead of k and v");
  m.expect(!a.per_head_rows,
           "perHeadRows belongs to paged KV, but k and v were given; leave it out, or pass pages instead of k and v");
  m.rows("k", a.k, type, {&d.total_kv, &d.kv_heads, &d.head_dim}).aligned_rows("k", a.k, 16);
  m.rows("v", a.v, type, {&d.total_kv, &d.kv_heads, &d.head_dim}).aligned_rows("v", a.v, 16);
  if (present(a.log_weight) && a.log_weight.rank == 2) {
    m.dense("logWeight", a.log_weight, kOnlyF32, {&d.total_kv, &d.kv_heads});
  } else {
    m.dense("logWeight", a.log_weight, kOnlyF32, {&d.total_kv});
  }
}

void check_paged(Match& m, const Args& a, Dims& d, Type& type) {
  const std::pair<const char*, const kvasir_tensor*> needed[] = {
      {"pageOffsets", &a.page_offsets}, {"rowStart", &a.row_start}, {"kvLen", &a.kv_len}, {"pageIndices", &a.page_indices}};
  for (const auto& [name, tensor] : needed) {
    m.expect(present(*tensor), "%s is missing: paged KV needs pages, pageOffsets, rowStart, kvLen, pageIndices and pageSize",
             name);
  }
  m.expect(!present(a.kv_indptr), "kvIndptr belongs to ragged KV, but pages were given; lengths of paged KV are in kvLen");
  check_page_size(m, a.page_size);
  Dim slots{"num_page_slots"}, elements{"elements_per_page"}, pair{"k|v", 2};
  m.rows("pages", a.pages, type, {&slots, &elements});
  if (m.ok()) check_pages(m, a.pages, a.page_size, d.head_dim);
  m.dense("pageOffsets", a.page_offsets, kOnlyI32, {&d.kv_heads, &pair});
  m.dense("rowStart", a.row_start, kOnlyI32, {&d.rows});
  m.dense("kvLen", a.kv_len, kOnlyI32, {&d.rows});
  m.dense("pageIndices", a.page_indices, kOnlyI32, {&d.entries});
  m.dense("pageStart", a.page_start, kOnlyI32, {&d.entries});
  m.dense("pageLen", a.page_len, kOnlyI32, {&d.entries});
  Dim weights{"entries * page_size", d.entries.value * a.page_size, "pageIndices"};
  m.dense("logWeight", a.log_weight, kOnlyF32, {&weights});
  if (!m.ok() || !a.per_head_rows) return;
  m.expect(d.kv_heads.value > 0 && d.rows.value % d.kv_heads.value == 0,
           "[SHAPE] kvLen[rows] is %lld, expected a multiple of %lld with perHeadRows: one row per request and KV head",
           static_cast<long long>(d.rows.value), static_cast<long long>(d.kv_heads.value));
}

// What divides the tokens among the requests: index pointers, or an even split.
void check_requests(Match& m, const Args& a, const Dims& d) {
  if (!m.ok()) return;
  const int64_t batch = attention_batch(a);
  const char* from = present(a.pages)       ? "kvLen"
                     : present(a.kv_indptr) ? "kvIndptr"
                     : present(a.qo_indptr) ? "qoIndptr"
                                            : "qStart";
  Dim bounds{"batch + 1", batch + 1, from}, requests{"batch", batch, from};
  m.expect(batch >= 1, "[SHAPE] %s describes %lld requests, expected at least 1", from, static_cast<long long>(batch));
  m.dense("kvIndptr", a.kv_indptr, kOnlyI32, {&bounds});
  m.dense("qoIndptr", a.qo_indptr, kOnlyI32, {&bounds});
  m.dense("qStart", a.q_start, kOnlyI32, {&requests});
  if (!m.ok()) return;
  m.expect(present(a.qo_indptr) || d.total_q.value % batch == 0,
           "[SHAPE] q[total_q] is %lld, expected a multiple of %lld requests (from %s) when qoIndptr is left out",
           static_cast<long long>(d.total_q.value), static_cast<long long>(batch), from);
  m.expect(present(a.pages) || present(a.kv_indptr) || d.total_kv.value % batch == 0,
           "[SHAPE] k[total_kv] is %lld, expected a multiple of %lld requests (from %s) when kvIndptr is left out",
           static_cast<long long>(d.total_kv.value), static_cast<long long>(batch), from);
}

void check_aliasing(Match& m, const Args& a) {
  const std::pair<const char*, const kvasir_tensor*> inputs[] = {{"q", &a.q}, {"k", &a.k}, {"v", &a.v}, {"pages", &a.pages}};
  for (const auto& [name, tensor] : inputs) {
    m.disjoint("out", a.out, name, *tensor);
    m.disjoint("lse", a.lse, name, *tensor);
  }
  m.disjoint("lse", a.lse, "out", a.out);
}

// out may be f32 whatever the others are: partial results are merged without a rounding between. kMixed: q, the KV side and out
// may each have a dtype of their own (the reference rounds what is given in any of them).
template <bool kMixed>
kvasir_status check(const void* raw, kvasir_error* err) {
  const Args& a = *static_cast<const Args*>(raw);
  Match m(err);
  Dims d;
  Type type{kComputeDtypes}, kv_own{kComputeDtypes}, out_own{kComputeDtypes};
  Type &kv_type = kMixed ? kv_own : type, &out_type = kMixed || a.out.dtype == KVASIR_F32 ? out_own : type;
  const bool ragged = present(a.k) || present(a.v), paged = present(a.pages);
  m.expect(ragged || paged, "k and v are missing, and so are pages: pass k and v (ragged KV) or pages with its table (paged KV)");
  m.expect(!(ragged && paged), "%s and pages were both given; pass k and v (ragged KV) or pages with its table (paged KV)",
           present(a.k) ? "k" : "v");
  m.rows("q", a.q, type, {&d.total_q, &d.qo_heads, &d.head_dim}).aligned_rows("q", a.q, 16);
  if (m.ok()) check_head_dim(m, d.head_dim);
  if (m.ok()) paged ? check_paged(m, a, d, kv_type) : check_ragged(m, a, d, kv_type);
  if (m.ok()) check_heads(m, d.qo_heads, d.kv_heads);
  m.rows("out", a.out, out_type, {&d.total_q, &d.qo_heads, &d.head_dim}).aligned_rows("out", a.out, 16);
  m.dense("lse", a.lse, kOnlyF32, {&d.total_q, &d.qo_heads});
  m.dense("sink", a.sink, kOnlyF32, {&d.qo_heads});
  if (m.ok()) check_inv_freq(m, "kInvFreq", a.k_inv_freq, d.head_dim);
  check_scalars(m, a);
  check_requests(m, a, d);
  if (m.ok()) check_aliasing(m, a);
  return m.status();
}

}  // namespace

constinit const Contract attention_contract{"attention", sizeof(Args), kFields, defaults, check<false>};
constinit const Contract attention_reference_contract{"attention_reference", sizeof(Args), kFields, defaults, check<true>};

}  // namespace kvasir
