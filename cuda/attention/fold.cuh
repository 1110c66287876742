// Batch-invariant sums (native/core/key_segments.h): the one arithmetic by which segments are folded and rows are finished, and
// where the partials of requests lie whose segments run side by side.
//
// Every step is an intrinsic of its own, so that no compiler fuses it differently here and there.
#pragma once
#include "../../native/core/key_segments.h"
#include "../common/mma.cuh"
#include "request.cuh"

namespace kvasir::cuda {

// Sums over some keys of a row, base 2: acc = sum_j 2^(s_j - max) v_j beside it. Empty: max = -inf.
struct FoldState {
  float max = -INFINITY, sum = 0.f;
  __device__ bool empty() const { return max == -INFINITY; }
};
struct FoldFactors {
  float total, part;
};

// What both are multiplied by, of which neither is empty.
__device__ __forceinline__ FoldFactors fold_factors(float total_max, float part_max) {
  const float joint = fmaxf(total_max, part_max);
  return {exp2_approx(__fsub_rn(total_max, joint)), exp2_approx(__fsub_rn(part_max, joint))};
}
// For the sums, and for each element of acc.
__device__ __forceinline__ float fold(float total, float part, FoldFactors factors) {
  return __fmaf_rn(total, factors.total, __fmul_rn(part, factors.part));
}

// What acc is multiplied by, and the lse. A row that saw no key gives 0 and -inf, sink or not.
struct RowEnd {
  float scale, lse;
};
__device__ __forceinline__ RowEnd end_row(FoldState row, const float* sink) {
  if (row.empty()) return {0.f, -INFINITY};
  float factor = 1.f;
  if (sink != nullptr) {
    const float logit = __fmul_rn(*sink, kLog2E), joint = fmaxf(row.max, logit);
    factor = exp2_approx(__fsub_rn(row.max, joint));
    row.sum = __fmaf_rn(row.sum, factor, exp2_approx(__fsub_rn(logit, joint)));
    row.max = joint;
  }
  return {__fdiv_rn(factor, row.sum), __fmul_rn(__fadd_rn(row.max, log2f(row.sum)), kLn2)};
}

// Segments that some row of a request may see.
__device__ __forceinline__ SegmentRange visible_segments(const AttentionParams& p, const Request& r) {
  int begin, end;
  visible_keys(p, r.kv_len, r.q_start, r.q_start + r.qo_len - 1, begin, end);
  return segments_of(begin, end);
}

// Partials that the rows of a request under one KV head take: none where its segments run one after another. They lie as
// [segment, packed row].
__device__ __forceinline__ int64_t partials_of(const AttentionParams& p, const Request& r) {
  const int count = visible_segments(p, r).count;
  if (count < 2 || r.qo_len > p.split_tokens) return 0;
  return int64_t{r.qo_len} * static_cast<int>(p.group.divisor) * count;
}

// The first partial of (request, KV head), behind those of all before it; -1: its segments run one after another, for there is
// only one, or its queries are many, or no room is left (of table rows that overlap: their lengths add up to more than the table
// holds). All lanes of a warp call it.
__device__ __forceinline__ int64_t find_partials(const AttentionParams& p, int request, int kv_head) {
  const int heads = p.per_head_rows ? p.num_kv_heads : 1, row = p.per_head_rows ? request * heads + kv_head : request;
  int64_t before = 0;
  for (int i = threadIdx.x & 31; i < row; i += 32) before += partials_of(p, load_request(p, i / heads, i % heads));
  for (int offset = 16; offset > 0; offset /= 2) before += __shfl_xor_sync(0xffffffffu, before, offset);
  const int64_t own = partials_of(p, load_request(p, request, kv_head));
  if (!p.per_head_rows) before = before * p.num_kv_heads + own * kv_head;
  return own > 0 && before + own <= p.part_rows ? before : -1;
}

}  // namespace kvasir::cuda
