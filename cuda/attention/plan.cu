// Chooses the attention kernel, its grid and its splits from shapes and scalars alone: a pure function, so that it answers "which
// kernel?", "how much scratch?" and "supported?" alike, and never waits for a length that lives on the device.
#include <algorithm>
#include <cmath>
#include <iterator>

#include "../../native/core/attention_batch.h"
#include "../../native/core/dtype.h"
#include "../../native/core/key_segments.h"
#include "../../native/core/stream_k.h"
#include "params.h"
#include "shapes.h"

namespace kvasir::cuda {
namespace {

// K and V of the heads that run side by side. Small sections keep them in the L2 cache; causal tiles differ in length, and a
// section of many heads lets the longest of all start first, which is worth more than the cache until it is far exceeded.
constexpr int64_t kSectionBytes = 24 << 20, kCausalSectionBytes = 64 << 20;
constexpr int kMaxSplits = 128;
// Batch-invariant: bytes of partials; and in calls of many rows, requests of few are shared out among up to so many CTAs a KV
// head, unless there are more requests than that.
constexpr int64_t kPartialBytes = int64_t{256} << 20;
constexpr int kShortSplits = 33, kMostShortRequests = 1024;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
const T* data_of(const kvasir_tensor& t) {
  return t.rank > 0 ? static_cast<const T*>(t.data) : nullptr;
}

AttentionParams params_of(const kvasir_attention_args& a) {
  const int64_t element = dtype_bytes(a.q.dtype), out_element = dtype_bytes(a.out.dtype);
  AttentionParams p = {};
  p.q = data_of<char>(a.q);
  p.out = static_cast<char*>(a.out.data);
  p.lse = a.lse.rank > 0 ? static_cast<float*>(a.lse.data) : nullptr;
  p.k = data_of<char>(a.k);
  p.v = data_of<char>(a.v);
  p.pages = data_of<char>(a.pages);
  p.q_token = a.q.stride[0] * element;
  p.q_head = a.q.stride[1] * element;
  p.out_token = a.out.stride[0] * out_element;
  p.out_head = a.out.stride[1] * out_element;
  p.out_f32 = a.out.dtype == KVASIR_F32 && a.q.dtype != KVASIR_F32;
  p.k_token = a.k.stride[0] * element;
  p.k_head = a.k.stride[1] * element;
  p.v_token = a.v.stride[0] * element;
  p.v_head = a.v.stride[1] * element;
  p.page_slot = a.pages.stride[0] * element;
  p.lse_token = a.lse.stride[0];
  p.lse_head = a.lse.stride[1];
  p.qo_indptr = data_of<int>(a.qo_indptr);
  p.kv_indptr = data_of<int>(a.kv_indptr);
  p.page_offsets = data_of<int>(a.page_offsets);
  p.row_start = data_of<int>(a.row_start);
  p.kv_len = data_of<int>(a.kv_len);
  p.page_indices = data_of<int>(a.page_indices);
  p.page_start = data_of<int>(a.page_start);
  p.page_len = data_of<int>(a.page_len);
  p.q_start = data_of<int>(a.q_start);
  p.log_weight = data_of<float>(a.log_weight);
  p.sink = data_of<float>(a.sink);
  p.k_inv_freq = data_of<float>(a.k_inv_freq);
  p.log_weight_token = a.log_weight.stride[0];
  p.log_weight_head = a.log_weight.rank > 1 ? a.log_weight.stride[1] : 0;
  p.batch = static_cast<int>(attention_batch(a));
  p.total_q = static_cast<int>(a.q.shape[0]);
  p.num_qo_heads = static_cast<int>(a.q.shape[1]);
  p.head_dim = static_cast<int>(a.q.shape[2]);
  const bool paged = a.pages.rank > 0;
  p.num_kv_heads = static_cast<int>(paged ? a.page_offsets.shape[0] : a.k.shape[1]);
  p.total_kv = paged ? 0 : static_cast<int>(a.k.shape[0]);
  p.page_size = paged ? a.page_size : kPageGroup;
  p.num_page_slots = paged ? static_cast<int>(a.pages.shape[0]) : 0;
  p.num_entries = paged ? static_cast<int>(a.page_indices.shape[0]) : 0;
  p.group = FastDiv(static_cast<uint32_t>(p.num_qo_heads / p.num_kv_heads));
  p.page_groups = FastDiv(static_cast<uint32_t>(p.page_size / kPageGroup));
  p.kv_heads = FastDiv(static_cast<uint32_t>(p.num_kv_heads));
  p.qo_each = p.total_q / std::max(p.batch, 1);
  p.kv_each = p.total_kv / std::max(p.batch, 1);
  p.rotary_pairs = a.k_inv_freq.rank > 0 ? static_cast<int>(a.k_inv_freq.shape[0]) : 0;
  p.rope_scale = a.k_rope_scale == 0.f ? 1.f : a.k_rope_scale;
  p.sm_scale = a.sm_scale == 0.f ? 1.f / std::sqrt(static_cast<float>(p.head_dim)) : a.sm_scale;
  p.scale_log2 = p.sm_scale * kLog2E;
  p.soft_cap = a.logits_soft_cap;
  p.window_left = a.window_left;
  p.causal = a.causal != 0;
  p.per_head_rows = a.per_head_rows != 0;
  p.batch_invariant = a.batch_invariant != 0;
  p.num_splits = 1;
  p.heads_per_section = p.num_kv_heads;
  return p;
}

// The tensor-core kernels move 16 bytes at a time. (Pages' own offsets are multiples of 16 by contract.)
bool aligned_16(const kvasir_tensor& t, int64_t element) {
  if (t.rank == 0) return true;
  if (reinterpret_cast<uintptr_t>(t.data) % 16 != 0) return false;
  for (int i = 0; i + 1 < t.rank; ++i) {
    if (t.stride[i] * element % 16 != 0) return false;
  }
  return true;
}

// The smallest number of splits whose last wave is nearly as full as the best count's.
int choose_splits(int64_t ctas, int64_t slots, int64_t most, int waves) {
  const auto fill = [&](int64_t splits) {
    const int64_t work = ctas * splits;
    return static_cast<double>(work) / static_cast<double>(ceil_div(work, slots) * slots);
  };
  most = std::clamp<int64_t>(std::min(most, ceil_div(waves * slots, std::max<int64_t>(ctas, 1))), 1, kMaxSplits);
  double best = 0;
  for (int64_t splits = 1; splits <= most; ++splits) best = std::max(best, fill(splits));
  int64_t splits = 1;
  while (fill(splits) < 0.9 * best) ++splits;
  return static_cast<int>(splits);
}

// Whether the device has bulk copies and this build has the code that uses them.
bool has_bulk_copies(const Hardware& hardware) {
  constexpr int kArchitectures[] = {__CUDA_ARCH_LIST__};  // as 800, 900
  return hardware.cc_major >= 9 && *std::max_element(std::begin(kArchitectures), std::end(kArchitectures)) >= 900;
}

// Stream-K over all CTAs, or an asked-for number of equal splits for every request, `keys` long. Results in f32 come from splits,
// for it is the kernel that joins them which writes such.
void plan_decode(AttentionPlan& plan, const kvasir_attention_args& a, const DecodeTile& tile, int64_t keys,
                 const Hardware& hardware) {
  AttentionParams& p = plan.params;
  plan.kernel = AttentionKernel::decode;
  plan.decode_rows = tile.rows;
  plan.bulk_copies = has_bulk_copies(hardware);
  // A copy's box must lie in one page.
  p.box_rows = p.paged() && p.page_size % tile.keys != 0 ? kPageGroup : tile.keys;
  p.num_splits = std::min(a.num_splits, 256);
  p.slots = std::min(hardware.sm_count * tile.ctas_per_sm, kMaxWorkers);
  const int64_t group = p.num_qo_heads / p.num_kv_heads;
  const int64_t items = int64_t{p.batch} * p.num_kv_heads * ceil_div(p.qo_each * group, tile.rows);
  if (p.out_f32) {
    if (p.num_splits == 0) p.num_splits = choose_splits(items, p.slots, ceil_div(keys, 4 * tile.keys), 2);
    p.num_splits = std::max(p.num_splits, 2);
  }
  if (p.num_splits == 0) {
    p.by_slots = FastDiv(static_cast<uint32_t>(p.slots));
    if (p.qo_indptr == nullptr && items > 0 && items <= p.slots) {
      p.even_items = static_cast<int>(items);
      p.even_workers = stream_k_workers(items * p.slots, items, p.slots, p.slots, kLeastTiles);
      p.by_even_workers = FastDiv(static_cast<uint32_t>(p.even_workers));
    }
    plan.workspace = static_cast<size_t>(p.slots) * partial_bytes(tile.rows, p.head_dim);
    plan.mailbox = sizeof(DecodeTurns) + plan.workspace * posts_per_worker(tile.rows);
  } else if (p.num_splits > 1) {
    p.part_rows = p.total_q;
    plan.workspace = static_cast<size_t>(p.num_splits * p.part_rows * p.num_qo_heads * (p.head_dim + 1)) * sizeof(float);
  }
}

// Batch-invariant: how many CTAs share the segments of a row, which changes no bit, and room for what they leave. `ctas` work on
// rows alone, `room` of them keep the device busy, and a request of up to short_rows packed rows is one of them for each KV head.
void plan_folded(AttentionPlan& plan, const kvasir_attention_args& a, int64_t ctas, int64_t room, int64_t short_rows) {
  AttentionParams& p = plan.params;
  plan.folded = true;
  const int64_t keys = p.paged() ? static_cast<int64_t>(p.num_entries) * p.page_size : p.total_kv;
  const int64_t most = ceil_div(keys, kSegmentKeys), group = p.num_qo_heads / p.num_kv_heads;  // segments of one request, at most
  if (most <= 1) return;
  int64_t wanted = a.num_splits > 0 ? a.num_splits : room / std::max<int64_t>(ctas, 1);
  p.split_tokens = kAllTokens;
  const int short_tokens = static_cast<int>(short_rows / group);
  const bool has_short = short_tokens > 0 && (p.qo_indptr != nullptr || p.qo_each <= short_tokens);
  if (a.num_splits == 0 && segment_workers(wanted) == 1 && has_short && p.batch > 1 && p.batch <= kMostShortRequests) {
    p.split_tokens = short_tokens;
    wanted = std::clamp<int64_t>(2 * room / (int64_t{p.batch} * p.num_kv_heads), 5, kShortSplits);
  }
  p.num_splits = segment_workers(std::min(wanted, most + 3));
  if (p.num_splits > 1) {
    // Rows of the table do not overlap, as a rule, so that their segments add up.
    const int64_t longest = p.qo_indptr == nullptr ? p.qo_each : std::min(p.total_q, p.split_tokens);
    const int64_t table_rows = p.per_head_rows ? int64_t{p.batch} * p.num_kv_heads : p.batch;
    const int64_t sum = longest * (p.per_head_rows ? group : p.num_qo_heads) * (keys / kSegmentKeys + 2 * table_rows);
    const int64_t largest = int64_t{p.total_q} * p.num_qo_heads * most;
    const int64_t bytes = sizeof(float2) + p.head_dim * sizeof(float);
    p.part_rows = std::min({sum, largest, kPartialBytes / bytes});
  }
  plan.workspace = p.fold_bytes();
  if (plan.kernel != AttentionKernel::simt)
    plan.workspace += static_cast<size_t>(p.total_q) * p.num_qo_heads * p.head_dim * sizeof(float);
}

}  // namespace

AttentionPlan plan_attention(const kvasir_attention_args& a, const Hardware& hardware) {
  AttentionPlan plan;
  plan.dtype = a.q.dtype;
  plan.out_dtype = a.out.dtype;
  if (a.q.dtype != KVASIR_BF16 && a.q.dtype != KVASIR_F16 && a.q.dtype != KVASIR_F32) return plan;
  if (a.q.shape[2] > 256) return plan;
  plan.params = params_of(a);
  AttentionParams& p = plan.params;
  plan.extra = p.soft_cap > 0.f || p.log_weight != nullptr || p.page_start != nullptr || p.page_len != nullptr ||
               p.k_inv_freq != nullptr || p.sm_scale < 0.f;
  const int64_t element = dtype_bytes(a.q.dtype), group = p.num_qo_heads / p.num_kv_heads, batch = std::max(p.batch, 1);
  const int64_t rows = ceil_div(p.total_q * group, batch);  // packed rows a request, on average
  // Keys a request, on average: an upper bound, since tables have slack.
  const int64_t keys =
      p.paged() ? ceil_div(a.page_indices.shape[0] * a.page_size, a.kv_len.shape[0]) : ceil_div(p.total_kv, batch);

  const TensorCoreShape* shape = find_tensor_core_shape(p.head_dim);
  const bool tensor_cores = shape != nullptr && element == 2 && aligned_16(a.q, element) &&
                            aligned_16(a.out, dtype_bytes(a.out.dtype)) && aligned_16(a.k, element) && aligned_16(a.v, element) &&
                            aligned_16(a.pages, element);
  int64_t ctas = 0, tile_keys = 64, tile_rows = 0;
  int waves = 1;
  if (!tensor_cores) {
    plan.kernel = AttentionKernel::simt;
    ctas = ceil_div(static_cast<int64_t>(p.total_q) * p.num_qo_heads, 4);
    waves = 4;
  } else if (const DecodeTile* tile = p.batch_invariant ? nullptr : find_decode_tile(*shape, has_bulk_copies(hardware), rows);
             tile != nullptr) {
    plan_decode(plan, a, *tile, keys, hardware);
    return plan;
  } else {
    plan.kernel = rows <= shape->small.rows ? AttentionKernel::prefill_small : AttentionKernel::prefill;
    tile_rows = plan.kernel == AttentionKernel::prefill ? shape->prefill.rows : shape->small.rows;
    const int64_t tiles = p.qo_indptr == nullptr || batch == 1
                              ? batch * ceil_div(p.total_q / batch * group, tile_rows)
                              : p.total_q * group / tile_rows + std::min<int64_t>(batch, p.total_q);
    p.num_tiles = static_cast<int>(tiles);
    const int64_t head_bytes = std::max<int64_t>(keys * p.head_dim * 2 * element, 1);
    const int64_t section_bytes = p.causal ? kCausalSectionBytes : kSectionBytes;
    const int64_t sections = ceil_div(p.num_kv_heads, std::clamp<int64_t>(section_bytes / head_bytes, 1, p.num_kv_heads));
    p.heads_per_section = static_cast<int>(ceil_div(p.num_kv_heads, sections));
    ctas = tiles * p.num_kv_heads;
    tile_keys = 256;  // a split shorter than that costs more than it balances
  }

  const bool paired = hardware.smem_per_sm >= 160 * 1024;
  const int64_t slots = static_cast<int64_t>(hardware.sm_count) * (paired ? kCtasPerSm : 1);
  if (p.batch_invariant) {
    plan_folded(plan, a, ctas, 2 * waves * slots, tile_rows);
    return plan;
  }
  p.num_splits = a.num_splits > 0 ? std::min(a.num_splits, 256) : choose_splits(ctas, slots, ceil_div(keys, tile_keys), waves);
  if (p.out_f32 && tensor_cores) p.num_splits = std::max(p.num_splits, 2);
  if (p.num_splits > 1) {
    p.part_rows = p.total_q;
    plan.workspace = static_cast<size_t>(p.num_splits * p.part_rows * p.num_qo_heads * (p.head_dim + 1)) * sizeof(float);
  }
  return plan;
}

}  // namespace kvasir::cuda
