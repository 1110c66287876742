// The contract of every op, one per file of this folder, and what those files share.
#pragma once
#include "../core/match.h"
#include "contract.h"

namespace kvasir {

extern const Contract attention_contract, attention_reference_contract, merge_contract, append_contract, rope_contract,
    rms_norm_contract, silu_mul_contract, embedding_contract, linear_contract, argmax_contract, sample_contract, advance_contract,
    cross_entropy_contract, compare_logits_contract, cast_contract, probe_read_contract, probe_fma_contract;

namespace field {
constexpr Field input(const char* name, size_t at) {
  return {name, FieldKind::tensor, static_cast<uint32_t>(at), true, Access::read};
}
constexpr Field optional_input(const char* name, size_t at) {
  return {name, FieldKind::tensor, static_cast<uint32_t>(at), false, Access::read};
}
constexpr Field output(const char* name, size_t at) {
  return {name, FieldKind::tensor, static_cast<uint32_t>(at), true, Access::write};
}
constexpr Field optional_output(const char* name, size_t at) {
  return {name, FieldKind::tensor, static_cast<uint32_t>(at), false, Access::write};
}
constexpr Field in_out(const char* name, size_t at) {
  return {name, FieldKind::tensor, static_cast<uint32_t>(at), true, Access::read_write};
}
constexpr Field optional_in_out(const char* name, size_t at) {
  return {name, FieldKind::tensor, static_cast<uint32_t>(at), false, Access::read_write};
}
constexpr Field number(const char* name, size_t at) {
  return {name, FieldKind::f32, static_cast<uint32_t>(at), false, Access::read};
}
constexpr Field integer(const char* name, size_t at) {
  return {name, FieldKind::i32, static_cast<uint32_t>(at), false, Access::read};
}
constexpr Field flag(const char* name, size_t at) {
  return {name, FieldKind::boolean, static_cast<uint32_t>(at), false, Access::read};
}
}  // namespace field

inline void no_defaults(void*) {}

// ---- rules that several ops share ----

inline void check_page_size(Match& m, int32_t page_size) {
  m.expect(page_size >= 16 && page_size <= 256 && page_size % 16 == 0, "pageSize is %d, expected a multiple of 16 from 16 to 256",
           page_size);
}
inline void check_head_dim(Match& m, const Dim& head_dim) {
  m.expect(head_dim.value > 0 && head_dim.value <= 256 && head_dim.value % 8 == 0,
           "[SHAPE] %s[head_dim] is %lld, expected a multiple of 8 from 8 to 256", head_dim.from,
           static_cast<long long>(head_dim.value));
}
inline void check_heads(Match& m, const Dim& qo_heads, const Dim& kv_heads) {
  m.expect(kv_heads.value > 0, "[SHAPE] %s[num_kv_heads] is %lld, expected at least 1", kv_heads.from,
           static_cast<long long>(kv_heads.value));
  if (!m.ok()) return;
  m.expect(qo_heads.value > 0 && qo_heads.value % kv_heads.value == 0,
           "[SHAPE] %s[num_qo_heads] is %lld, expected a multiple of %lld, the num_kv_heads of %s", qo_heads.from,
           static_cast<long long>(qo_heads.value), static_cast<long long>(kv_heads.value), kv_heads.from);
}
// inv_freq holds one angle per rotated pair: at most head_dim / 2 of them.
inline void check_inv_freq(Match& m, const char* name, const kvasir_tensor& inv_freq, const Dim& head_dim) {
  if (!present(inv_freq)) return;
  Dim pairs{"rotary_dim / 2"};
  m.dense(name, inv_freq, kOnlyF32, {&pairs});
  m.expect(pairs.value > 0 && pairs.value * 2 <= head_dim.value,
           "[SHAPE] %s[rotary_dim / 2] is %lld, expected 1 to %lld, half the head_dim of %s", name,
           static_cast<long long>(pairs.value), static_cast<long long>(head_dim.value / 2), head_dim.from);
}
// Payloads are loaded 16 bytes at a time, and one head's K (or V) fills page_size * head_dim elements of a page.
inline void check_pages(Match& m, const kvasir_tensor& pages, int32_t page_size, const Dim& head_dim) {
  m.aligned_rows("pages", pages, 16);
  m.expect(pages.shape[1] >= page_size * head_dim.value,
           "[SHAPE] pages[elements_per_page] is %lld, expected at least %lld: pageSize %d times head_dim %lld",
           static_cast<long long>(pages.shape[1]), static_cast<long long>(page_size * head_dim.value), page_size,
           static_cast<long long>(head_dim.value));
}

}  // namespace kvasir
