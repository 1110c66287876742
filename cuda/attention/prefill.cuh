// Prefill and chunked prefill: out = softmax(mask(sm_scale q kᵀ)) v by tiles, FlashAttention-2 style (Dao 2023, arXiv
// 2307.08691), on mma.m16n8k16 with f32 accumulation. q, out [total_q, num_qo_heads, D]; k, v ragged or paged; bf16 or f16; sm_80
// and later. Ours: a KV head's query heads are packed into rows (row = query * group + head in group); the request is found on
// the device; the running maximum moves only when it grew by more than 2^8, row by row, so that a row's bits depend on that row.
// A CTA owns kRows rows of one KV head and walks its tiles of kKeys keys from the last to the first. Phases:
//   1. find the request; fill the entry ring; start Q and the first tile(s)        barrier: all arrive, all wait
//   2. per tile: wait for it; barrier (tile visible to all, previous tile free); start the next; S = Q Kᵀ; softmax; O += P V.
//      Two stages: the next tile loads under this tile's work. One stage: V loads under Q Kᵀ and the next K under P V, with a
//      second barrier between them.
//   3. O / sum through the warp's own rows of the Q tile to global memory, or f32 partials when the keys are split over CTAs.
// Tiles that need no mask take a path without compares; a warp skips a tile in which its rows see nothing.
//
// kFolded, for batch-invariant calls: sums start anew with every segment of keys (native/core/key_segments.h). A CTA folds the
// segments that it walks, one after another, into totals in global memory, each thread its own elements; or a request's segments
// are shared out among CTAs, which leave a partial for each, and launch_fold joins them. Both fold by fold.cuh, so that a row's
// bits depend neither on that choice nor on how many queries came with it.
#pragma once
#include <type_traits>

#include "../common/dependent_launch.cuh"
#include "prefill_fold.cuh"

namespace kvasir::cuda {

template <typename T, class Shape, class Source, bool kExtra, bool kFolded = false>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kCtasPerSm) prefill_kernel(const __grid_constant__ AttentionParams p) {
  constexpr int kD = Shape::kHeadDim, kRows = Shape::kRows, kKeys = Shape::kKeys, kRowTiles = Shape::kRowTiles;
  using Sw = Swizzle<kD>;
  using Shared = SharedOf<Shape, Source, kFolded>;
  extern __shared__ __align__(1024) char smem[];
  char* const q_tile = smem;                                               // [kRows, D]; O on the way out
  char* const k_tiles = q_tile + Sw::tile_bytes(kRows);                    // [kStages][kKeys, D]
  char* const v_tiles = k_tiles + Shape::kStages * Sw::tile_bytes(kKeys);  // [kStages][kKeys, D]
  Shared& s = *reinterpret_cast<Shared*>(v_tiles + Shape::kStages * Sw::tile_bytes(kKeys));
  using Walk = SegmentWalk<kSegmentKeys / kKeys>;
  const int t = threadIdx.x, lane = t & 31, warp = t >> 5;
  if (p.num_splits > 1) release_dependents();

  // blockIdx.x runs over heads of a section first, then row tiles, then sections: the K and V of a section's heads share the L2
  // cache. Folded, where only short requests are shared out: past those come their further CTAs (a request is one row tile then).
  int request_index, row_tile = 0, head_index, split_index = blockIdx.y;
  if (const int beyond = static_cast<int>(blockIdx.x) - p.num_tiles * p.num_kv_heads; kFolded && beyond >= 0) {
    const int pair = beyond / (p.num_splits - 1);
    split_index = 1 + beyond - pair * (p.num_splits - 1);
    request_index = pair / p.num_kv_heads;
    head_index = pair - request_index * p.num_kv_heads;
  } else {
    const int per_section = p.num_tiles * p.heads_per_section, section = blockIdx.x / per_section;
    const int in_section = blockIdx.x - section * per_section;
    const int first_head = section * p.heads_per_section, heads = min(p.heads_per_section, p.num_kv_heads - first_head);
    head_index = first_head + in_section % heads;
    if (!find_row_tile<Shape::kThreads>(p, in_section / heads, kRows, s.scratch, request_index, row_tile)) return;
  }
  if (t == 0) {
    s.kv_head = head_index;
    s.split = split_index;
    s.request = load_request(p, request_index, head_index);
    s.source.init(p, s.request, head_index);
  }
  if constexpr (kFolded) {
    const int64_t begin = p.num_splits > 1 && warp == 0 ? find_partials(p, request_index, head_index) : -1;
    if (t == 0) s.part_begin = begin;
    if (t == 0 && p.num_splits > 1 && row_tile == 0 && split_index == 0)
      p.part_begin[request_index * p.num_kv_heads + head_index] = begin;
  }
  __syncthreads();
  const int group = static_cast<int>(p.group.divisor);
  int tile_end;
  {
    const int row_begin = row_tile * kRows, rows = min(kRows, s.request.qo_len * group - row_begin);
    if (rows <= 0) return;
    if constexpr (kFolded) {
      if (split_index > 0 && s.part_begin < 0) return;
    }
    for (int r = t; r < kRows; r += Shape::kThreads)
      s.row_position[r] = s.request.q_start + p.group.div(row_begin + min(r, rows - 1));
    int key_begin, key_end;
    visible_keys(p, s.request.kv_len, s.request.q_start + p.group.div(row_begin),
                 s.request.q_start + p.group.div(row_begin + rows - 1), key_begin, key_end);
    int tile_begin = key_begin / kKeys;
    tile_end = (key_end + kKeys - 1) / kKeys;
    if constexpr (!kFolded) split_tiles(p, split_index, tile_begin, tile_end);
    if (t == 0) {
      s.row_begin = row_begin;
      s.rows = rows;
      s.tile_begin = tile_begin;
    }
    if constexpr (kFolded) {
      const Walk walk(tile_begin, tile_end, s.part_begin >= 0 ? p.num_splits : 1, split_index);
      tile_end = walk.end;
      if (s.part_begin >= 0 && tile_end <= tile_begin) return;
      if (t == 0) {
        s.walk = walk;
        s.first_segment = visible_segments(p, s.request).first;
      }
    }
  }
  __syncthreads();

  const uint32_t k_smem = smem_address(k_tiles), v_smem = smem_address(v_tiles);
  constexpr int kTileBytes = Sw::tile_bytes(kKeys);
  const auto load = [&](auto is_v, int tile) {
    constexpr bool kIsV = decltype(is_v)::value;
    const uint32_t to = (kIsV ? v_smem : k_smem) + (Shape::kStages == 2 ? (tile & 1) * kTileBytes : 0);
    if ((kExtra && p.page_len != nullptr) || (tile + 1) * kKeys > s.request.kv_len) {
      load_tile<Shape, Source, kExtra, kIsV, true>(p, s, to, tile);
    } else {
      load_tile<Shape, Source, kExtra, kIsV, false>(p, s, to, tile);
    }
  };
  // The tile that is walked after `tile`.
  const auto next_tile = [&](int tile) {
    if constexpr (kFolded) {
      return s.walk.next(tile);
    } else {
      return tile - 1;
    }
  };
  constexpr std::false_type kK{};
  constexpr std::true_type kV{};

  // Prologue: Q rows, past the last as zeros; the ring's first entries must land before the first tile's addresses are known.
  if (s.tile_begin < tile_end) {
    const int row_begin = s.row_begin, rows = s.rows;
    load_entries<Shape, Source, kExtra>(p, s, tile_end - 1);
    constexpr int kPassRows = Shape::kThreads / Sw::kChunks;
    const int column = t % Sw::kChunks;
    for (int r = t / Sw::kChunks; r < kRows; r += kPassRows) {
      const int row = row_begin + min(r, rows - 1), query = p.group.div(row), head = s.kv_head * group + row - query * group;
      const char* from = p.q + (s.request.qo_begin + query) * p.q_token + head * p.q_head + column * 16;
#pragma unroll
      for (int segment = 0; segment < Sw::kSegments; ++segment) {
        cp_async_16(smem_address(q_tile) + segment * kRows * Sw::kRowBytes + Sw::offset(r, column),
                    from + segment * Sw::kRowBytes, r < rows ? 16 : 0);
      }
    }
    cp_async_commit();
    if constexpr (Source::kPaged) {
      cp_async_wait<0>();
      __syncthreads();  // all threads: the entries of the first tile are visible
    }
    load(kK, tile_end - 1);
    if constexpr (Shape::kStages == 2) load(kV, tile_end - 1);
    load_entries<Shape, Source, kExtra>(p, s, next_tile(tile_end - 1));
    cp_async_commit();
  }

  float o[kRowTiles][kD / 8][4];  // C tiles of this warp's [16 * kRowTiles, D] rows
  float row_max[kRowTiles][2], row_sum[kRowTiles][2];
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
    row_max[i][0] = row_max[i][1] = -INFINITY;
    row_sum[i][0] = row_sum[i][1] = 0.f;
#pragma unroll
    for (int j = 0; j < kD / 8; ++j) o[i][j][0] = o[i][j][1] = o[i][j][2] = o[i][j][3] = 0.f;
  }
  const int warp_row = warp * Shape::kWarpRows, row8 = lane >> 2, pair = lane & 3;
  const uint32_t q_lane = smem_address(q_tile) + Sw::offset(warp_row + lane_row_a(lane), lane_chunk_a(lane));
  const uint32_t k_lane = k_smem + Sw::offset(lane_row_b(lane), lane_chunk_b(lane));
  const uint32_t v_lane = v_smem + Sw::offset(lane_row_a(lane), lane_chunk_a(lane));
  const float scale = kExtra ? 1.f : p.scale_log2;
  uint32_t q[Shape::kQInRegisters ? kD / 16 : 1][kRowTiles][4];
  if constexpr (Shape::kQInRegisters) {
    cp_async_wait<0>();
    __syncthreads();  // all threads: Q is visible
#pragma unroll
    for (int step = 0; step < kD / 16; ++step)
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i)
        ldmatrix_x4(q[step][i], Sw::template at_step<kRows>(q_lane, step) + i * 16 * Sw::kRowBytes);
  }

  float score[kRowTiles][kKeys / 8][4];  // S, then P

  const auto multiply_scores = [&](uint32_t stage) {  // S = Q Kᵀ
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) score[i][j][0] = score[i][j][1] = score[i][j][2] = score[i][j][3] = 0.f;
#pragma unroll
    for (int step = 0; step < kD / 16; ++step) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        if constexpr (Shape::kQInRegisters) {
#pragma unroll
          for (int e = 0; e < 4; ++e) a[i][e] = q[step][i][e];
        } else {
          ldmatrix_x4(a[i], Sw::template at_step<kRows>(q_lane, step) + i * 16 * Sw::kRowBytes);
        }
      }
#pragma unroll
      for (int j = 0; j < kKeys / 16; ++j) {
        uint32_t b[4];
        ldmatrix_x4(b, Sw::template at_step<kKeys>(k_lane + stage, step) + j * 16 * Sw::kRowBytes);
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) {
          mma_16816<T>(score[i][2 * j], a[i], b[0], b[1]);
          mma_16816<T>(score[i][2 * j + 1], a[i], b[2], b[3]);
        }
      }
    }
  };
  // What a row may not see becomes -inf; kExtra: cap and bias, and scores become base-2 logits.
  const auto mask = [&](int tile) {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int position = s.row_position[warp_row + i * 16 + half * 8 + row8];
        int last = p.causal ? position : INT32_MAX, first = p.window_left >= 0 ? position - p.window_left : INT32_MIN;
        if constexpr (!kExtra) {  // relative to this lane's first column, so that the compares below are against constants
          const int column0 = tile * kKeys + pair * 2;
          last = min(last, s.request.kv_len - 1) - column0;
          first = max(first, 0) - column0;
        }
#pragma unroll
        for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& x = score[i][j][2 * half + e];
            if constexpr (kExtra) {
              const int at = s.key_position[j * 8 + pair * 2 + e];
              const float bias = s.key_bias[j * 8 + pair * 2 + e];
              x = p.soft_cap > 0.f ? p.soft_cap * tanh_accurate(x * p.sm_scale / p.soft_cap) * kLog2E : x * p.scale_log2;
              x = bias > -INFINITY && at <= last && at >= first ? (kFolded ? __fadd_rn(x, bias) : x + bias) : -INFINITY;
            } else {
              x = j * 8 + e <= last && j * 8 + e >= first ? x : -INFINITY;
            }
          }
        }
      }
    }
  };
  // Running maximum and sum of every row; P in place of S; O follows a maximum that moved.
  const auto softmax = [&](bool masked) {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      float alpha[2];
      bool grew = false;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float top = -INFINITY;
#pragma unroll
        for (int j = 0; j < kKeys / 8; ++j) top = fmaxf(top, fmaxf(score[i][j][2 * half], score[i][j][2 * half + 1]));
        top = quad_max(top);
        const float old = row_max[i][half];
        const bool moves = __fmul_rn(top - old, scale) > kMaxSlack;  // false when both are -inf
        row_max[i][half] = moves ? top : old;
        alpha[half] = moves ? exp2_approx(__fmul_rn(old - top, scale)) : 1.f;
        grew |= moves;
        float offset = __fmul_rn(row_max[i][half], scale), sum = 0.f;
        if (masked && row_max[i][half] == -INFINITY) offset = 0.f;
#pragma unroll
        for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& x = score[i][j][2 * half + e];
            x = exp2_approx(__fmaf_rn(x, scale, -offset));
            sum = __fadd_rn(sum, x);
          }
        }
        row_sum[i][half] = __fmaf_rn(row_sum[i][half], alpha[half], sum);
      }
      if (!__any_sync(0xffffffffu, grew)) continue;
#pragma unroll
      for (int j = 0; j < kD / 8; ++j) {
        o[i][j][0] *= alpha[0];
        o[i][j][1] *= alpha[0];
        o[i][j][2] *= alpha[1];
        o[i][j][3] *= alpha[1];
      }
    }
  };
  const auto multiply_values = [&](uint32_t stage) {  // O += P V
#pragma unroll
    for (int j = 0; j < kKeys / 16; ++j) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        a[i][0] = pack2<T>(score[i][2 * j][0], score[i][2 * j][1]);
        a[i][1] = pack2<T>(score[i][2 * j][2], score[i][2 * j][3]);
        a[i][2] = pack2<T>(score[i][2 * j + 1][0], score[i][2 * j + 1][1]);
        a[i][3] = pack2<T>(score[i][2 * j + 1][2], score[i][2 * j + 1][3]);
      }
#pragma unroll
      for (int step = 0; step < kD / 16; ++step) {
        uint32_t b[4];
        ldmatrix_x4_transposed(b, Sw::template at_step<kKeys>(v_lane + stage, step) + j * 16 * Sw::kRowBytes);
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) {
          mma_16816<T>(o[i][2 * step], a[i], b[0], b[1]);
          mma_16816<T>(o[i][2 * step + 1], a[i], b[2], b[3]);
        }
      }
    }
  };
  // What is left of a tile; with two stages that is all of it, so that each way through has its own product with K.
  const auto attend = [&](auto masked, int tile) {
    constexpr bool kMasked = decltype(masked)::value;
    const uint32_t stage = Shape::kStages == 2 ? (tile & 1) * kTileBytes : 0;
    if constexpr (Shape::kStages == 2) multiply_scores(stage);
    if constexpr (kMasked) mask(tile);
    softmax(kMasked);
    multiply_values(stage);
  };

  [[maybe_unused]] std::conditional_t<kFolded, SegmentSums<Shape, Shared>, int> sums{};
  if constexpr (kFolded) sums.init(s, warp_row + row8, pair);

  for (int tile = tile_end - 1; tile >= s.tile_begin; tile = next_tile(tile)) {
    const int next = next_tile(tile);
    cp_async_wait<0>();
    __syncthreads();  // all threads: the tile is visible, and nobody reads the previous one any more
    if constexpr (Shape::kStages == 2) {
      if (next >= s.tile_begin) {
        load(kK, next);
        load(kV, next);
      }
      load_entries<Shape, Source, kExtra>(p, s, next_tile(next));
    } else {
      load(kV, tile);
    }
    cp_async_commit();
    if constexpr (kExtra) {
      prepare_keys<T>(p, s, k_tiles + (Shape::kStages == 2 ? (tile & 1) * kTileBytes : 0), tile, s.kv_head);
      __syncthreads();  // all threads: positions, biases and rotated keys are visible
    }
    const int key0 = tile * kKeys;
    const int first = s.row_position[warp_row], last = s.row_position[warp_row + Shape::kWarpRows - 1];
    const bool ordered = !kExtra || p.page_start == nullptr;
    const bool visible =
        warp_row < s.rows &&
        !(ordered && ((p.causal && key0 > last) || (p.window_left >= 0 && key0 + kKeys - 1 < first - p.window_left)));
    const bool whole = key0 + kKeys <= s.request.kv_len && (!p.causal || key0 + kKeys - 1 <= first) &&
                       (p.window_left < 0 || key0 >= last - p.window_left);
    const bool masked = kExtra || !whole, seen = masked ? visible : warp_row < s.rows;
    if constexpr (Shape::kStages == 1) {
      if (seen) multiply_scores(0);
      cp_async_wait<0>();
      __syncthreads();  // all threads: V is visible, and nobody reads K any more
      if (next >= s.tile_begin) load(kK, next);
      load_entries<Shape, Source, kExtra>(p, s, next_tile(next));
      cp_async_commit();
    }
    if (seen) {
      if constexpr (kExtra) {
        attend(std::true_type{}, tile);
      } else if (whole) {
        attend(std::false_type{}, tile);
      } else {
        attend(std::true_type{}, tile);
      }
    }
    if constexpr (kFolded) {
      if (Walk::is_first(tile) && next >= s.tile_begin) sums.end(p, s, o, row_max, row_sum, scale);
    }
  }

  // Epilogue. Rows that saw no key: out = 0, lse = -inf, sink or not.
  cp_async_wait<0>();
  const int rows = s.rows, row_begin = s.row_begin, kv_head = s.kv_head;
  bool split = p.num_splits > 1;
  if constexpr (kFolded) split = s.part_begin >= 0;
  if (warp_row >= rows) return;
  __syncwarp();  // the warp is done reading its rows of Q, which O replaces
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int in_tile = warp_row + i * 16 + half * 8 + row8, row = row_begin + in_tile;
      const int query = p.group.div(row), head = kv_head * group + row - query * group;
      const bool live = in_tile < rows;
      float inverse, lse;
      if constexpr (kFolded) {
        FoldState state = sums.state_of(row_max[i][half], row_sum[i][half], scale);
        if (split) {
          sums.store_partial(p, s, o[i], i, half, state);
          continue;
        }
        sums.join_total(p, s, o[i], i, half, state);
        const RowEnd end = end_row(state, live && p.sink != nullptr ? p.sink + head : nullptr);
        inverse = end.scale;
        lse = end.lse;
      } else {
        float sum = quad_sum(row_sum[i][half]), top = row_max[i][half] * scale, factor = 1.f;
        if (row_max[i][half] == -INFINITY) sum = 0.f;
        if (p.sink != nullptr && !split && live && sum > 0.f) {
          const float sink = p.sink[head] * kLog2E, both = fmaxf(top, sink);
          factor = exp2_approx(top - both);
          sum = sum * factor + exp2_approx(sink - both);
          top = both;
        }
        inverse = sum > 0.f ? factor / sum : 0.f;
        lse = sum > 0.f ? (top + log2f(sum)) * kLn2 : -INFINITY;
        if (split) {
          if (!live) continue;
          const int64_t at = (s.split * p.part_rows + s.request.qo_begin + query) * p.num_qo_heads + head;
          if (pair == 0) p.part_lse[at] = lse;
          if (sum > 0.f) {
#pragma unroll
            for (int j = 0; j < kD / 8; ++j) {
              *reinterpret_cast<float2*>(p.part_out + at * kD + j * 8 + pair * 2) =
                  make_float2(o[i][j][2 * half] * inverse, o[i][j][2 * half + 1] * inverse);
            }
          }
          continue;
        }
      }
      if (live && pair == 0 && p.lse != nullptr) p.lse[(s.request.qo_begin + query) * p.lse_token + head * p.lse_head] = lse;
      if (kFolded && p.out_f32) {
        char* const to = p.out + (s.request.qo_begin + query) * p.out_token + head * p.out_head + pair * 8;
#pragma unroll
        for (int j = 0; j < kD / 8; ++j) {
          const float2 x = make_float2(o[i][j][2 * half] * inverse, o[i][j][2 * half + 1] * inverse);
          if (live) *reinterpret_cast<float2*>(to + j * 32) = x;
        }
        continue;
      }
#pragma unroll
      for (int j = 0; j < kD / 8; ++j) {
        *reinterpret_cast<uint32_t*>(q_tile + (j / Sw::kChunks) * kRows * Sw::kRowBytes + Sw::offset(in_tile, j % Sw::kChunks) +
                                     pair * 4) = pack2<T>(o[i][j][2 * half] * inverse, o[i][j][2 * half + 1] * inverse);
      }
    }
  }
  if (split || (kFolded && p.out_f32)) return;
  __syncwarp();  // the warp's own rows only
  for (int r = warp_row + lane / Sw::kChunks; r < min(rows, warp_row + Shape::kWarpRows); r += 32 / Sw::kChunks) {
    const int row = row_begin + r, query = p.group.div(row), head = kv_head * group + row - query * group,
              column = lane % Sw::kChunks;
    char* to = p.out + (s.request.qo_begin + query) * p.out_token + head * p.out_head + column * 16;
#pragma unroll
    for (int segment = 0; segment < Sw::kSegments; ++segment) {
      *reinterpret_cast<uint4*>(to + segment * Sw::kRowBytes) =
          *reinterpret_cast<const uint4*>(q_tile + segment * kRows * Sw::kRowBytes + Sw::offset(r, column));
    }
  }
}

// Grid: (heads x row tiles, splits), or in one dimension where only short requests are shared out.
template <typename T, class Shape, class Source, bool kExtra, bool kFolded = false>
cudaError_t launch_prefill(const AttentionParams& p, cudaStream_t stream) {
  constexpr int kBytes = prefill_smem_bytes<Shape, SharedOf<Shape, Source, kFolded>>();
  static_assert(kBytes <= 99 * 1024, "over what sm_86 gives a CTA");
  const auto kernel = prefill_kernel<T, Shape, Source, kExtra, kFolded>;
  const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  const unsigned tiles = p.num_tiles * p.num_kv_heads, splits = p.num_splits;
  const bool short_only = kFolded && p.split_tokens != kAllTokens;
  const dim3 grid = short_only ? dim3(tiles + p.batch * p.num_kv_heads * (splits - 1)) : dim3(tiles, splits);
  kernel<<<grid, Shape::kThreads, kBytes, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace kvasir::cuda
