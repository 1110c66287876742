// What attention kernels take: kvasir_attention_args flattened to pointers, byte strides and precomputed divisions, plus the
// launcher's choices. Everything here follows from shapes and scalars; lengths and tables are read on the device, so that a
// captured launch stays right when they change.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "../../native/abi/kvasir_abi.h"
#include "../common/fast_div.h"

namespace kvasir::cuda {

inline constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;
inline constexpr int kLeastTiles = 1;    // key tiles that are worth a worker of a stream-K line and its partial
inline constexpr int kMaxWorkers = 256;  // of a line
// Partials of a block of rows (decode_join.cuh): log2 of how many are merged at once, bytes of one, and posts a worker: its
// piece, and one for each level but the last of the tree that merges kMaxWorkers of them.
constexpr int fan_bits(int rows) { return rows <= 8 ? 4 : 2; }
constexpr int partial_bytes(int rows, int head_dim) { return rows * head_dim * 4 + rows * head_dim / 32 * 8; }
constexpr int posts_per_worker(int rows) { return 8 / fan_bits(rows); }
// The turns of decode launches that follow one another (decode_ahead.cuh): how many CTAs w have begun, and the number of the last
// one that has started all its copies; level between launches.
struct DecodeTurns {
  unsigned begun[kMaxWorkers], read[kMaxWorkers];
};
inline constexpr int kAllTokens = INT32_MAX;  // AttentionParams::split_tokens: however many
inline constexpr int kPageGroup = 16;  // page_size is a multiple of it: 16 keys that start at a multiple of 16 share a page

struct AttentionParams {
  const char* q;
  char* out;
  float* lse;         // optional
  const char *k, *v;  // ragged
  const char* pages;  // paged
  // Byte strides of a token and of a head; of a page slot.
  int64_t q_token, q_head, out_token, out_head, k_token, k_head, v_token, v_head, page_slot;
  int64_t lse_token, lse_head;  // elements
  const int *qo_indptr, *kv_indptr, *page_offsets, *row_start, *kv_len, *page_indices, *page_start, *page_len, *q_start;
  const float *log_weight, *sink, *k_inv_freq;
  int64_t log_weight_token, log_weight_head;  // elements; head 0 when shared by all heads
  FastDiv group;                              // num_qo_heads / num_kv_heads
  FastDiv page_groups;                        // page_size / kPageGroup
  FastDiv kv_heads;                           // num_kv_heads
  int qo_each, kv_each;                       // tokens a request where no indptr tells
  int batch, total_q, total_kv, num_qo_heads, num_kv_heads, head_dim, page_size, rotary_pairs;
  float sm_scale, scale_log2, soft_cap, rope_scale;  // scale_log2 = sm_scale * log2(e)
  int window_left;
  bool causal, per_head_rows, batch_invariant;

  // Launch: row tiles over all requests (an upper bound), heads that run side by side, splits of the keys (decode: 0 for
  // stream-K), and where partials go.
  int num_tiles, heads_per_section, num_splits;
  float* part_out;  // [num_splits, part_rows, num_qo_heads, head_dim]
  float* part_lse;  // [num_splits, part_rows, num_qo_heads]
  int64_t part_rows;

  // Decode by stream-K: CTAs of the grid, their turns and posts, and a partial of its own for each.
  int slots;
  DecodeTurns* turns;
  char *mailbox, *own;
  // Planning's divisions, made here: workers and items of a line that is long enough for all CTAs and whose items, so many, are
  // of one length (stream_k_workers).
  int even_items, even_workers;
  FastDiv by_slots, by_even_workers;
  int num_page_slots, num_entries;
  int box_rows;  // key rows of one bulk tensor copy

  // Batch-invariant (fold.cuh): num_splits is how many CTAs share a row's segments, of requests of at most split_tokens queries;
  // their partials are part_out [part_rows, head_dim], not normalised, beside their (max, sum).
  int split_tokens;     // kAllTokens: all requests
  float2* part_state;   // [part_rows]
  int64_t* part_begin;  // [batch, num_kv_heads]: the first partial, or -1
  float* totals;        // [total_q, num_qo_heads, head_dim]: acc of the segments so far, where they follow one another

  bool out_f32;  // out is f32, and q is not: for the kernels that join splits, that fold segments, and the plain one

  KVASIR_HD bool paged() const { return pages != nullptr; }
  // Where stream-K joins its partials: a mailbox of AttentionPlan::mailbox bytes, and a workspace.
  void join_through(void* box, void* workspace) {
    turns = static_cast<DecodeTurns*>(box);
    mailbox = reinterpret_cast<char*>(turns + 1);
    own = static_cast<char*>(workspace);
  }
  // Where folded segments go: a workspace of fold_bytes() and the totals behind it.
  size_t fold_bytes() const {
    if (num_splits <= 1) return 0;
    const size_t begins = static_cast<size_t>(batch) * num_kv_heads * sizeof(int64_t);
    return begins + static_cast<size_t>(part_rows) * (sizeof(float2) + head_dim * sizeof(float));
  }
  void fold_through(void* workspace) {
    part_begin = static_cast<int64_t*>(workspace);
    part_state = reinterpret_cast<float2*>(part_begin + static_cast<int64_t>(batch) * num_kv_heads);
    part_out = reinterpret_cast<float*>(part_state + part_rows);
    totals = reinterpret_cast<float*>(static_cast<char*>(workspace) + fold_bytes());
  }
};

// What a kernel may count on: read off the device once.
struct Hardware {
  int sm_count = 0, cc_major = 0, smem_per_sm = 0;
};

enum class AttentionKernel { none, prefill, prefill_small, decode, simt };

struct AttentionPlan {
  AttentionKernel kernel = AttentionKernel::none;
  int32_t dtype = 0, out_dtype = 0;
  bool extra = false;  // the general instantiation: soft cap, log weights, explicit positions, keys rotated on the way in
  AttentionParams params = {};
  int decode_rows = 0;       // rows of a block of the decode kernel: 8, 16 or 32
  bool bulk_copies = false;  // sm_90: K and V come by bulk tensor copies
  bool folded = false;       // batch-invariant: the kernels that fold segments
  size_t workspace = 0;      // bytes of partials and totals
  size_t mailbox = 0;        // bytes of the mailbox (runtime/mailbox.h) that stream-K joins its partials through
};

// Pure: the kernel, its grid bounds and its scratch, from shapes and scalars only. kernel is `none` where no kernel takes the
// dtype.
AttentionPlan plan_attention(const kvasir_attention_args&, const Hardware&);

// One entry a head_dim and kernel family; a family for a newer architecture adds its own rows and its own AttentionKernel.
cudaError_t launch_prefill_d64(const AttentionPlan&, cudaStream_t);
cudaError_t launch_prefill_d96(const AttentionPlan&, cudaStream_t);
cudaError_t launch_prefill_d128(const AttentionPlan&, cudaStream_t);
cudaError_t launch_prefill_d192(const AttentionPlan&, cudaStream_t);
cudaError_t launch_prefill_d256(const AttentionPlan&, cudaStream_t);
cudaError_t launch_folded_d64(const AttentionPlan&, cudaStream_t);
cudaError_t launch_folded_d96(const AttentionPlan&, cudaStream_t);
cudaError_t launch_folded_d128(const AttentionPlan&, cudaStream_t);
cudaError_t launch_folded_d192(const AttentionPlan&, cudaStream_t);
cudaError_t launch_folded_d256(const AttentionPlan&, cudaStream_t);
cudaError_t launch_decode_d64(const AttentionPlan&, cudaStream_t);
cudaError_t launch_decode_d96(const AttentionPlan&, cudaStream_t);
cudaError_t launch_decode_d128(const AttentionPlan&, cudaStream_t);
cudaError_t launch_decode_d192(const AttentionPlan&, cudaStream_t);
cudaError_t launch_decode_d256(const AttentionPlan&, cudaStream_t);
cudaError_t launch_simt(const AttentionPlan&, cudaStream_t);
// Joins the partials of a split plan; sinks enter here. Folded plans have a join of their own.
cudaError_t launch_combine(const AttentionPlan&, const Hardware&, cudaStream_t);
cudaError_t launch_fold(const AttentionPlan&, const Hardware&, cudaStream_t);
cudaError_t launch_merge_parts(const kvasir_merge_args&, cudaStream_t);

// Runs a plan; `workspace` holds plan.workspace bytes, `mailbox` plan.mailbox bytes that no launch at the same time uses.
cudaError_t run_attention(AttentionPlan, const Hardware&, void* workspace, void* mailbox, cudaStream_t);

}  // namespace kvasir::cuda
