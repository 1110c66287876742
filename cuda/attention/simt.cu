// The plain attention kernel: any float dtype (f32 included), any head_dim up to 256, any alignment, the whole contract. No
// tensor cores: f32 multiply-adds, exact to f32 rounding; the other kernels are for speed.
//
// One warp owns one (query token, query head) and one split of the keys, 32 keys a round. Phases per round: each lane scores one
// key (its whole dot product, q from shared memory); the warp agrees on the new maximum; then all lanes, along head_dim, add the
// visible keys' V rows one after another. A key that is not visible is never read. No barrier but the warp's own. kFolded, for
// batch-invariant calls: sums start anew with every segment of keys, and segments are folded as prefill.cuh says.
#include "../../native/core/merge.h"
#include "../common/dependent_launch.cuh"
#include "../common/mma.cuh"
#include "fold.cuh"

namespace kvasir::cuda {
namespace {

constexpr int kSimtWarps = 4, kMaxHeadDim = 256, kLaneElements = kMaxHeadDim / 32;

// The folded rows' end: sums of the segments so far, and where those go that are shared out among CTAs.
struct SegmentSums {
  FoldState state;
  float acc[kLaneElements] = {};

  // Folds a segment in.
  __device__ void add(const FoldState& part, const float (&part_acc)[kLaneElements]) {
    if (part.empty()) return;
    const bool first = state.empty();
    const FoldFactors factors = first ? FoldFactors{1.f, 1.f} : fold_factors(state.max, part.max);
    state = first ? part : FoldState{fmaxf(state.max, part.max), fold(state.sum, part.sum, factors)};
#pragma unroll
    for (int e = 0; e < kLaneElements; ++e) acc[e] = first ? part_acc[e] : fold(acc[e], part_acc[e], factors);
  }
  __device__ static void store(const AttentionParams& p, int64_t at, int lane, const FoldState& part,
                               const float (&part_acc)[kLaneElements]) {
    if (lane == 0) p.part_state[at] = make_float2(part.max, part.sum);
    if (part.empty()) return;
#pragma unroll
    for (int e = 0; e < kLaneElements; ++e) {
      if (lane + 32 * e < p.head_dim) p.part_out[at * p.head_dim + lane + 32 * e] = part_acc[e];
    }
  }
};

// Element d of a row of out.
template <typename T>
__device__ __forceinline__ void write_out(const AttentionParams& p, char* row, int d, float x) {
  if (p.out_f32) {
    reinterpret_cast<float*>(row)[d] = x;
  } else {
    reinterpret_cast<T*>(row)[d] = from_float<T>(x);
  }
}

template <typename T, bool kFolded>
__global__ void __launch_bounds__(kSimtWarps * 32) simt_kernel(const __grid_constant__ AttentionParams p) {
  __shared__ float q_rows[kSimtWarps][kMaxHeadDim];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int64_t index = blockIdx.x * static_cast<int64_t>(kSimtWarps) + warp;
  const int token = static_cast<int>(index / p.num_qo_heads), head = static_cast<int>(index % p.num_qo_heads);
  if (token >= p.total_q) return;
  const int request_index = request_of_token(p, token);
  if (request_index < 0) return;
  const int kv_head = p.group.div(head);
  const Request r = load_request(p, request_index, kv_head);

  float* const q = q_rows[warp];
  const T* const q_row = reinterpret_cast<const T*>(p.q + token * p.q_token + head * p.q_head);
  for (int d = lane; d < p.head_dim; d += 32) q[d] = to_float(q_row[d]);
  __syncwarp();  // q is visible to the warp

  const int position = r.q_start + token - r.qo_begin;
  int key_begin, key_end;
  visible_keys(p, r.kv_len, position, position, key_begin, key_end);
  int tile_begin = key_begin / 32, tile_end = (key_end + 31) / 32;

  float acc[kLaneElements] = {};
  SoftmaxState<Base2> state;
  const auto add_tile = [&](int tile) {
    const int key = tile * 32 + lane;
    bool visible = key < r.kv_len;
    int at = key;
    int64_t weight_index = r.kv_begin + static_cast<int64_t>(key);
    const T *k_row = nullptr, *v_row = nullptr;
    if (visible) {
      if (p.paged()) {
        const int entry = key / p.page_size, in_page = key - entry * p.page_size;
        const int64_t place = r.kv_begin + static_cast<int64_t>(entry);
        if (p.page_len != nullptr) visible = in_page < p.page_len[place];
        if (p.page_start != nullptr) at = p.page_start[place] + in_page;
        weight_index = place * p.page_size + in_page;
        const char* page = p.pages + p.page_indices[place] * p.page_slot + in_page * p.head_dim * static_cast<int64_t>(sizeof(T));
        k_row = reinterpret_cast<const T*>(page + p.page_offsets[2 * kv_head]);
        v_row = reinterpret_cast<const T*>(page + p.page_offsets[2 * kv_head + 1]);
      } else {
        k_row = reinterpret_cast<const T*>(p.k + weight_index * p.k_token + kv_head * p.k_head);
        v_row = reinterpret_cast<const T*>(p.v + weight_index * p.v_token + kv_head * p.v_head);
      }
    }
    visible = visible && (!p.causal || at <= position) && (p.window_left < 0 || at >= position - p.window_left);

    float score = -INFINITY;
    if (visible) {
      float dot = 0.f;
      int plain = 0;  // first element that is not rotated
      if (p.k_inv_freq != nullptr) {
        for (int d = 0; d < p.rotary_pairs; ++d) {
          float sine, cosine;
          sincosf(__fmul_rn(static_cast<float>(at), p.k_inv_freq[d]), &sine, &cosine);
          sine *= p.rope_scale;
          cosine *= p.rope_scale;
          const float x = to_float(k_row[d]), y = to_float(k_row[d + p.rotary_pairs]);
          dot = fmaf(q[d], to_float(from_float<T>(x * cosine - y * sine)), dot);
          dot = fmaf(q[d + p.rotary_pairs], to_float(from_float<T>(y * cosine + x * sine)), dot);
        }
        plain = 2 * p.rotary_pairs;
      }
      for (int d = plain; d < p.head_dim; ++d) dot = fmaf(q[d], to_float(k_row[d]), dot);
      score = dot * p.sm_scale;
      if (p.soft_cap > 0.f) score = p.soft_cap * tanhf(score / p.soft_cap);
      if (p.log_weight != nullptr) score += p.log_weight[weight_index * p.log_weight_token + kv_head * p.log_weight_head];
      score *= kLog2E;
    }
    SoftmaxState<Base2> round;
    round.max = score;
    for (int offset = 16; offset > 0; offset /= 2) round.max = fmaxf(round.max, __shfl_xor_sync(0xffffffffu, round.max, offset));
    if (round.empty()) return;
    const float joint = fmaxf(state.max, round.max), weight = score == -INFINITY ? 0.f : exp2f(score - joint);
    float sum = weight;
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    const float keep = state.empty() ? 0.f : exp2f(state.max - joint);
    state.sum = state.sum * keep + sum;
    state.max = joint;
#pragma unroll
    for (int e = 0; e < kLaneElements; ++e) acc[e] *= keep;
    for (int j = 0; j < 32; ++j) {
      const float w = __shfl_sync(0xffffffffu, weight, j);
      const auto row = reinterpret_cast<const T*>(__shfl_sync(0xffffffffu, reinterpret_cast<unsigned long long>(v_row), j));
      if (w == 0.f) continue;
#pragma unroll
      for (int e = 0; e < kLaneElements; ++e) {
        const int d = lane + 32 * e;
        if (d < p.head_dim) acc[e] = fmaf(w, to_float(row[d]), acc[e]);
      }
    }
  };

  char* const out = p.out + token * p.out_token + head * p.out_head;
  if constexpr (kFolded) {
    const int64_t begin = p.num_splits > 1 ? find_partials(p, request_index, kv_head) : -1;
    const int group = static_cast<int>(p.group.divisor), row = (token - r.qo_begin) * group + head - kv_head * group;
    if (begin < 0 && blockIdx.y > 0) return;
    if (p.num_splits > 1 && blockIdx.y == 0 && row == 0 && lane == 0)
      p.part_begin[request_index * p.num_kv_heads + kv_head] = begin;
    const SegmentRange own = segments_of(key_begin, key_end);
    const int first = visible_segments(p, r).first;
    SegmentSums sums;
    for (int segment = own.first + own.count - 1 - static_cast<int>(blockIdx.y); segment >= own.first;
         segment -= begin >= 0 ? p.num_splits : 1) {
      constexpr int kTiles = kSegmentKeys / 32;
      const int end = min(tile_end, (segment + 1) * kTiles);
      for (int tile = max(tile_begin, segment * kTiles); tile < end; ++tile) add_tile(tile);
      const FoldState part = {state.max, state.sum};
      if (begin >= 0) {
        SegmentSums::store(p, begin + (segment - first) * (static_cast<int64_t>(r.qo_len) * group) + row, lane, part, acc);
      } else {
        sums.add(part, acc);
      }
      state = {};
#pragma unroll
      for (int e = 0; e < kLaneElements; ++e) acc[e] = 0.f;
    }
    if (begin >= 0) return;
    const RowEnd end = end_row(sums.state, p.sink != nullptr ? p.sink + head : nullptr);
    if (lane == 0 && p.lse != nullptr) p.lse[token * p.lse_token + head * p.lse_head] = end.lse;
#pragma unroll
    for (int e = 0; e < kLaneElements; ++e) {
      const int d = lane + 32 * e;
      if (d < p.head_dim) write_out<T>(p, out, d, __fmul_rn(sums.acc[e], end.scale));
    }
    return;
  }

  const bool split = p.num_splits > 1;
  split_tiles(p, blockIdx.y, tile_begin, tile_end);
  for (int tile = tile_begin; tile < tile_end; ++tile) add_tile(tile);
  const bool some = !state.empty();
  if (!split && p.sink != nullptr && some) {
    SoftmaxState<Base2> sink;
    sink.max = p.sink[head] * kLog2E;
    sink.sum = 1.f;
    const float factor = state.merge(sink).mine;
#pragma unroll
    for (int e = 0; e < kLaneElements; ++e) acc[e] *= factor;
  }
  const float inverse = some ? 1.f / state.sum : 0.f, lse = state.lse();
  if (split) {
    const int64_t row = (blockIdx.y * p.part_rows + token) * p.num_qo_heads + head;
    if (lane == 0) p.part_lse[row] = lse;
    for (int e = 0; e < kLaneElements && lane + 32 * e < p.head_dim; ++e)
      p.part_out[row * p.head_dim + lane + 32 * e] = acc[e] * inverse;
    return;
  }
  if (lane == 0 && p.lse != nullptr) p.lse[token * p.lse_token + head * p.lse_head] = lse;
#pragma unroll
  for (int e = 0; e < kLaneElements; ++e) {
    const int d = lane + 32 * e;
    if (d < p.head_dim) write_out<T>(p, out, d, acc[e] * inverse);
  }
}

template <typename T>
cudaError_t launch(const AttentionPlan& plan, cudaStream_t stream) {
  const AttentionParams& p = plan.params;
  const int64_t rows = static_cast<int64_t>(p.total_q) * p.num_qo_heads;
  const dim3 grid(static_cast<unsigned>((rows + kSimtWarps - 1) / kSimtWarps), p.num_splits);
  const auto kernel = plan.folded ? simt_kernel<T, true> : simt_kernel<T, false>;
  kernel<<<grid, kSimtWarps * 32, 0, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_simt(const AttentionPlan& plan, cudaStream_t stream) {
  switch (plan.dtype) {
    case KVASIR_BF16: return launch<__nv_bfloat16>(plan, stream);
    case KVASIR_F16: return launch<__half>(plan, stream);
    default: return launch<float>(plan, stream);
  }
}

}  // namespace kvasir::cuda
