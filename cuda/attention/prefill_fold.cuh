// What the prefill kernel of batch-invariant calls does where a segment of keys ends (fold.cuh): the sums of a row go to their
// partial, or are joined with the total of the segments behind, each thread for the elements that it has of the row.
#pragma once
#include "prefill_load.cuh"

namespace kvasir::cuda {

// A thread holds elements j * 8 + pair * 2 + {0, 1} of rows i * 16 + half * 8 from its first on, as C tiles are laid out.
template <class Shape, class Shared>
struct SegmentSums {
  static constexpr int kD = Shape::kHeadDim;
  using Acc = float[kD / 8][4];  // of one row tile
  int first_row, pair;
  int segment;  // that is being walked
  bool others;  // segments were walked before it

  __device__ void init(const Shared& s, int row, int pair_) {
    first_row = row;
    pair = pair_;
    segment = s.walk.segment;
    others = false;
  }
  __device__ int row_of(int i, int half) const { return first_row + i * 16 + half * 8; }

  // What a row's running maximum and sum come to; all lanes of a warp.
  __device__ static FoldState state_of(float row_max, float row_sum, float scale) {
    const float sum = quad_sum(row_sum);
    return row_max == -INFINITY ? FoldState{} : FoldState{__fmul_rn(row_max, scale), sum};
  }

  __device__ float* total_of(const AttentionParams& p, const Shared& s, int in_tile) const {
    const int group = static_cast<int>(p.group.divisor), row = s.row_begin + in_tile, query = p.group.div(row);
    const int head = s.kv_head * group + row - query * group;
    return p.totals + ((s.request.qo_begin + query) * static_cast<int64_t>(p.num_qo_heads) + head) * kD + pair * 2;
  }
  __device__ static void store(float* to, const Acc& o, int half) {
#pragma unroll
    for (int j = 0; j < kD / 8; ++j) *reinterpret_cast<float2*>(to + j * 8) = make_float2(o[j][2 * half], o[j][2 * half + 1]);
  }

  __device__ void store_partial(const AttentionParams& p, const Shared& s, const Acc& o, int i, int half,
                                const FoldState& state) const {
    const int in_tile = row_of(i, half);
    if (in_tile >= s.rows) return;
    const int64_t rows = static_cast<int64_t>(s.request.qo_len) * static_cast<int>(p.group.divisor);
    const int64_t at = s.part_begin + (segment - s.first_segment) * rows + s.row_begin + in_tile;
    if (pair == 0) p.part_state[at] = make_float2(state.max, state.sum);
    if (!state.empty()) store(p.part_out + at * kD + pair * 2, o, half);
  }

  // Folds what a row has into the total of the segments behind, in registers.
  __device__ void join_total(const AttentionParams& p, const Shared& s, Acc& o, int i, int half, FoldState& state) const {
    const int in_tile = row_of(i, half);
    if (!others || in_tile >= s.rows) return;
    const FoldState total = {s.total_max[in_tile], s.total_sum[in_tile]};
    if (total.empty()) return;
    const float* const from = total_of(p, s, in_tile);
    const bool none = state.empty();
    const FoldFactors factors = none ? FoldFactors{1.f, 1.f} : fold_factors(total.max, state.max);
    state = none ? total : FoldState{fmaxf(total.max, state.max), fold(total.sum, state.sum, factors)};
#pragma unroll
    for (int j = 0; j < kD / 8; ++j) {
      const float2 x = *reinterpret_cast<const float2*>(from + j * 8);
      o[j][2 * half] = none ? x.x : fold(x.x, o[j][2 * half], factors);
      o[j][2 * half + 1] = none ? x.y : fold(x.y, o[j][2 * half + 1], factors);
    }
  }

  // The segment has ended and another follows: its sums leave, and start anew. All lanes of a warp.
  __device__ void end(const AttentionParams& p, Shared& s, Acc (&o)[Shape::kRowTiles], float (&row_max)[Shape::kRowTiles][2],
                      float (&row_sum)[Shape::kRowTiles][2], float scale) {
    const bool shared_out = s.part_begin >= 0;
#pragma unroll
    for (int i = 0; i < Shape::kRowTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        FoldState state = state_of(row_max[i][half], row_sum[i][half], scale);
        if (shared_out) {
          store_partial(p, s, o[i], i, half, state);
        } else {
          join_total(p, s, o[i], i, half, state);
          const int in_tile = row_of(i, half);
          if (in_tile < s.rows && !state.empty()) store(total_of(p, s, in_tile), o[i], half);
          __syncwarp();  // the row's four lanes have read the total's state
          if (pair == 0) s.total_max[in_tile] = state.max, s.total_sum[in_tile] = state.sum;
        }
        row_max[i][half] = -INFINITY;
        row_sum[i][half] = 0.f;
      }
#pragma unroll
      for (int j = 0; j < kD / 8; ++j) o[i][j][0] = o[i][j][1] = o[i][j][2] = o[i][j][3] = 0.f;
    }
    segment -= shared_out ? p.num_splits : 1;
    others = true;
  }
};

}  // namespace kvasir::cuda
