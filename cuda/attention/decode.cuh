// Decode with the keys split over CTAs (split-KV, Flash-Decoding style): a few query tokens against a long cache, bound by the
// bytes of K and V. q, out [total_q, num_qo_heads, D], k and v ragged or paged; bf16 or f16; f32 partials; sm_80 and later. Ours:
// each warp runs a pipeline of its own over units of kKeys keys (unit w, w + kWarps, ... of the CTA's share), so that the main
// loop has no CTA barrier; a unit of 16 keys lies in one page, whose slot a lane of the warp holds; the grid depends on shapes
// alone and each CTA derives its share from the lengths on the device, so that a captured launch stays right when they change.
//
// A CTA owns (request, KV head, split) and up to 16 packed rows at a time (row = query * group + head in group). Phases:
//   1. lengths -> share of the keys; each warp starts kStages - 1 units; Q fragments straight from global memory
//   2. per unit and warp: wait for it; syncwarp (the unit is visible, the oldest stage is free); start the next; S = Q Kᵀ;
//   softmax; O += P V
//   3. warps leave (max, sum, O) in their own stage memory       barrier: all arrive, all wait
//   4. all threads merge the warps in order and write out, or a partial for the combine kernel
#pragma once
#include "../../native/core/merge.h"
#include "../common/swizzle.cuh"
#include "tile_source.cuh"

namespace kvasir::cuda {

template <int kHeadDim_, int kWarps_, int kKeys_, int kStages_, int kCtasPerSm_>
struct DecodeShape {
  static constexpr int kHeadDim = kHeadDim_, kWarps = kWarps_, kKeys = kKeys_, kStages = kStages_, kCtasPerSm = kCtasPerSm_;
  static constexpr int kThreads = kWarps * 32, kRows = 16;
  static constexpr int kTileKeys = kWarps * kKeys;  // what splits are cut by
  static constexpr int kGroups = kKeys / kPageGroup;
  static constexpr int kHalfBytes = Swizzle<kHeadDim>::tile_bytes(kKeys);  // K or V of one unit
  static constexpr int kWarpBytes = kStages * 2 * kHalfBytes;
  static_assert(kStages >= 2 && kWarpBytes >= kRows * kHeadDim * 4);
};

template <class Shape>
struct DecodeShared {
  float max[Shape::kWarps][Shape::kRows], sum[Shape::kWarps][Shape::kRows];
  int start[Shape::kWarps][Shape::kStages][Shape::kGroups];  // kExtra: position of each group's first key ...
  int fill[Shape::kWarps][Shape::kStages][Shape::kGroups];   // ... and how many keys it holds
};

template <class Shape>
constexpr int decode_smem_bytes() {
  return Shape::kWarps * Shape::kWarpBytes + static_cast<int>(sizeof(DecodeShared<Shape>));
}

// The table entries of a warp's next 32 / kGroups units, one group a lane.
template <class Shape, class Source, bool kExtra>
struct EntryBlock {
  static constexpr int kUnits = 32 / Shape::kGroups;
  GroupEntry mine;

  // `unit` is the first of the block; the warp's units are kWarps apart.
  __device__ void refill(const AttentionParams& p, const Source& source, int unit, int kv_len, int lane) {
    if constexpr (Source::kPaged) {
      const int key = (unit + lane / Shape::kGroups * Shape::kWarps) * Shape::kKeys + lane % Shape::kGroups * kPageGroup;
      mine = GroupEntry{};
      if (key < kv_len) {
        const int entry = p.page_groups.div(key / kPageGroup);
        mine.slot = source.slots[entry];
        if constexpr (kExtra) {
          if (source.starts != nullptr) mine.start = source.starts[entry];
          mine.filled = source.fills != nullptr ? source.fills[entry] : p.page_size;
        }
      }
    }
  }
};

// 16 packed rows of Q as A fragments, rows past `rows` as zeros.
template <int kD>
__device__ __forceinline__ void load_q_fragments(const AttentionParams& p, const Request& r, int kv_head, int row_begin, int rows,
                                                 int lane, uint32_t (&q)[kD / 16][4]) {
  const int row8 = lane >> 2, pair = lane & 3;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = row_begin + row8 + half * 8, query = p.group.div(row),
              head = kv_head * static_cast<int>(p.group.divisor) + p.group.mod(row);
    const bool live = row < rows;
    const char* from = p.q + (r.qo_begin + (live ? query : 0)) * p.q_token + (live ? head : 0) * p.q_head + pair * 4;
#pragma unroll
    for (int step = 0; step < kD / 16; ++step) {
      q[step][half] = live ? *reinterpret_cast<const uint32_t*>(from + step * 32) : 0u;
      q[step][half + 2] = live ? *reinterpret_cast<const uint32_t*>(from + step * 32 + 16) : 0u;
    }
  }
}

template <typename T, class Shape, class Source, bool kExtra>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kCtasPerSm) decode_kernel(const __grid_constant__ AttentionParams p) {
  constexpr int kD = Shape::kHeadDim, kKeys = Shape::kKeys, kStages = Shape::kStages, kWarps = Shape::kWarps;
  using Sw = Swizzle<kD>;
  extern __shared__ __align__(1024) char smem[];
  DecodeShared<Shape>& s = *reinterpret_cast<DecodeShared<Shape>*>(smem + kWarps * Shape::kWarpBytes);
  const int t = threadIdx.x, lane = t & 31, warp = t >> 5;
  const int split = blockIdx.x % p.num_splits, pair_index = blockIdx.x / p.num_splits;
  const int kv_head = pair_index % p.num_kv_heads;
  const Request request = load_request(p, pair_index / p.num_kv_heads, kv_head);
  const int group = static_cast<int>(p.group.divisor), rows = request.qo_len * group;
  Source source;
  source.init(p, request, kv_head);
  const bool splits = is_split(p, request.qo_len);
  if (!splits && split > 0) return;
  if (p.num_splits > 1) release_dependents();

  char* const stages = smem + warp * Shape::kWarpBytes;  // this warp's [kStages][K | V][kKeys, D]
  const uint32_t stages_smem = smem_address(stages);
  const uint32_t k_lane = stages_smem + Sw::offset(lane_row_b(lane), lane_chunk_b(lane));
  const uint32_t v_lane = stages_smem + Shape::kHalfBytes + Sw::offset(lane_row_a(lane), lane_chunk_a(lane));
  const int row8 = lane >> 2, pair = lane & 3;
  const float scale = kExtra ? 1.f : p.scale_log2;

  for (int row_begin = 0; row_begin < rows; row_begin += Shape::kRows) {
    const int row_last = min(rows, row_begin + Shape::kRows) - 1;
    const int first_position = request.q_start + p.group.div(row_begin), last_position = request.q_start + p.group.div(row_last);
    int key_begin, key_end;
    visible_keys(p, request.kv_len, first_position, last_position, key_begin, key_end);
    int tile_begin = key_begin / Shape::kTileKeys, tile_end = (key_end + Shape::kTileKeys - 1) / Shape::kTileKeys;
    if (splits) split_tiles(p, request.kv_len, Shape::kTileKeys, split, tile_begin, tile_end);
    // This warp's units: first, first + kWarps, ...; those that start past key_end hold nothing.
    const int first_unit = tile_begin * kWarps + warp;
    const int last_unit = min(tile_end * kWarps, (key_end + kKeys - 1) / kKeys);
    const int count = last_unit > first_unit ? (last_unit - first_unit + kWarps - 1) / kWarps : 0;

    EntryBlock<Shape, Source, kExtra> entries;
    const auto start_unit = [&](int i) {
      if (i < count) {
        constexpr int kPassRows = 32 / Sw::kChunks;
        const int unit = first_unit + i * kWarps, stage = i % kStages;
        if (i % entries.kUnits == 0) entries.refill(p, source, unit, request.kv_len, lane);
        const uint32_t to = stages_smem + stage * 2 * Shape::kHalfBytes;
        const bool whole = (unit + 1) * kKeys <= request.kv_len && !(kExtra && p.page_len != nullptr);
#pragma unroll
        for (int g = 0; g < Shape::kGroups; ++g) {
          const int key0 = unit * kKeys + g * kPageGroup;  // first key of the group; its rows follow one another in memory
          int slot = 0, filled = request.kv_len - key0;
          if constexpr (Source::kPaged) {
            const int from = i % entries.kUnits * Shape::kGroups + g;
            slot = __shfl_sync(0xffffffffu, entries.mine.slot, from);
            if constexpr (kExtra) {
              const int in_page = p.page_groups.mod(key0 / kPageGroup) * kPageGroup;
              filled = min(filled, __shfl_sync(0xffffffffu, entries.mine.filled, from) - in_page);
              const int start = __shfl_sync(0xffffffffu, entries.mine.start, from);
              if (lane == 0) s.start[warp][stage][g] = p.page_start != nullptr ? start + in_page : key0;
            }
          } else if constexpr (kExtra) {
            if (lane == 0) s.start[warp][stage][g] = key0;
          }
          if constexpr (kExtra) {
            if (lane == 0) s.fill[warp][stage][g] = filled;
          }
          const int base_key = filled > 0 ? key0 : 0;
          const char* k = source.k_row(p, slot, base_key, kD * 2) + lane % Sw::kChunks * 16;
          const char* v = source.v_row(p, slot, base_key, kD * 2) + lane % Sw::kChunks * 16;
          const int64_t k_step = Source::kPaged ? kD * 2 : p.k_token, v_step = Source::kPaged ? kD * 2 : p.v_token;
#pragma unroll
          for (int pass = 0; pass < kPageGroup / kPassRows; ++pass) {
            const int row = lane / Sw::kChunks + pass * kPassRows;
            const int bytes = whole || row < filled ? 16 : 0;
            const int64_t at = bytes > 0 ? row : 0;
            const uint32_t target = to + g * kPageGroup * Sw::kRowBytes + Sw::offset(row, lane % Sw::kChunks);
#pragma unroll
            for (int segment = 0; segment < Sw::kSegments; ++segment) {
              cp_async_16(target + segment * kKeys * Sw::kRowBytes, k + at * k_step + segment * Sw::kRowBytes, bytes);
              cp_async_16(target + segment * kKeys * Sw::kRowBytes + Shape::kHalfBytes, v + at * v_step + segment * Sw::kRowBytes,
                          bytes);
            }
          }
        }
      }
      cp_async_commit();
    };
#pragma unroll
    for (int i = 0; i < kStages - 1; ++i) start_unit(i);

    uint32_t q[kD / 16][4];
    load_q_fragments<kD>(p, request, kv_head, row_begin, rows, lane, q);
    float o[kD / 8][4];
    float row_max[2] = {-INFINITY, -INFINITY}, row_sum[2] = {0.f, 0.f};
#pragma unroll
    for (int j = 0; j < kD / 8; ++j) o[j][0] = o[j][1] = o[j][2] = o[j][3] = 0.f;

    for (int i = 0; i < count; ++i) {
      cp_async_wait<kStages - 2>();
      __syncwarp();  // the unit is visible to the warp, and the warp is done with the previous one
      const int unit = first_unit + i * kWarps, stage_index = i % kStages;
      const uint32_t stage = stage_index * 2 * Shape::kHalfBytes;
      start_unit(i + kStages - 1);

      if constexpr (kExtra) {
        if (p.k_inv_freq != nullptr) {
          char* const k_unit = stages + stage;
          for (int x = lane; x < kKeys * p.rotary_pairs; x += 32) {
            const int row = x / p.rotary_pairs, d = x - row * p.rotary_pairs, d2 = d + p.rotary_pairs;
            const auto element = [&](int column) {
              const int chunk = column / 8,
                        at = chunk / Sw::kChunks * kKeys * Sw::kRowBytes + Sw::offset(row, chunk % Sw::kChunks);
              return reinterpret_cast<T*>(k_unit + at) + column % 8;
            };
            const float position = static_cast<float>(s.start[warp][stage_index][row / kPageGroup] + row % kPageGroup);
            float sine, cosine;
            sincosf(__fmul_rn(position, p.k_inv_freq[d]), &sine, &cosine);
            sine *= p.rope_scale;
            cosine *= p.rope_scale;
            const float a = to_float(*element(d)), b = to_float(*element(d2));
            *element(d) = from_float<T>(a * cosine - b * sine);
            *element(d2) = from_float<T>(b * cosine + a * sine);
          }
          __syncwarp();  // rotated keys are visible to the warp
        }
      }

      float score[kKeys / 8][4], odd[kKeys / 8][4];  // even and odd k-steps apart: two chains of products instead of one
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) score[j][e] = odd[j][e] = 0.f;
#pragma unroll
      for (int step = 0; step < kD / 16; ++step) {
#pragma unroll
        for (int j = 0; j < kKeys / 16; ++j) {
          uint32_t b[4];
          ldmatrix_x4(b, Sw::template at_step<kKeys>(k_lane + stage, step) + j * 16 * Sw::kRowBytes);
          mma_16816<T>(step % 2 == 0 ? score[2 * j] : odd[2 * j], q[step], b[0], b[1]);
          mma_16816<T>(step % 2 == 0 ? score[2 * j + 1] : odd[2 * j + 1], q[step], b[2], b[3]);
        }
      }
      const bool whole = !kExtra && (unit + 1) * kKeys <= request.kv_len &&
                         (!p.causal || (unit + 1) * kKeys - 1 <= first_position) &&
                         (p.window_left < 0 || unit * kKeys >= last_position - p.window_left);
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) score[j][e] += odd[j][e];
      if (!whole) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int position = request.q_start + p.group.div(row_begin + row8 + half * 8);
          const int last = p.causal ? position : INT32_MAX, first = p.window_left >= 0 ? position - p.window_left : INT32_MIN;
#pragma unroll
          for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              float& x = score[j][2 * half + e];
              const int column = j * 8 + pair * 2 + e, key = unit * kKeys + column;
              if constexpr (kExtra) {
                const int g = column / kPageGroup, in_group = column % kPageGroup, at = s.start[warp][stage_index][g] + in_group;
                const bool visible = in_group < s.fill[warp][stage_index][g] && at <= last && at >= first;
                float bias = 0.f;
                if (visible && p.log_weight != nullptr) {
                  int64_t index = request.kv_begin + static_cast<int64_t>(key);
                  if constexpr (Source::kPaged) {
                    const int page_group = key / kPageGroup, entry = p.page_groups.div(page_group);
                    index = (request.kv_begin + static_cast<int64_t>(entry)) * p.page_size +
                            p.page_groups.mod(page_group) * kPageGroup + in_group;
                  }
                  bias = kLog2E * p.log_weight[index * p.log_weight_token + kv_head * p.log_weight_head];
                }
                x = p.soft_cap > 0.f ? p.soft_cap * tanh_accurate(x * p.sm_scale / p.soft_cap) * kLog2E : x * p.scale_log2;
                x = visible ? x + bias : -INFINITY;
              } else {
                x = key < request.kv_len && key <= last && key >= first ? x : -INFINITY;
              }
            }
        }
      }

      bool grew = false;
      float alpha[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float top = -INFINITY;
#pragma unroll
        for (int j = 0; j < kKeys / 8; ++j) top = fmaxf(top, fmaxf(score[j][2 * half], score[j][2 * half + 1]));
        top = quad_max(top);
        const float old = row_max[half];
        const bool moves = __fmul_rn(top - old, scale) > kMaxSlack;  // false when both are -inf
        row_max[half] = moves ? top : old;
        alpha[half] = moves ? exp2_approx(__fmul_rn(old - top, scale)) : 1.f;
        grew |= moves;
        const float offset = row_max[half] == -INFINITY ? 0.f : __fmul_rn(row_max[half], scale);
        float sum = 0.f;
#pragma unroll
        for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& x = score[j][2 * half + e];
            x = exp2_approx(__fmaf_rn(x, scale, -offset));
            sum += x;
          }
        row_sum[half] = __fmaf_rn(row_sum[half], alpha[half], sum);
      }
      if (__any_sync(0xffffffffu, grew)) {
#pragma unroll
        for (int j = 0; j < kD / 8; ++j) {
          o[j][0] *= alpha[0];
          o[j][1] *= alpha[0];
          o[j][2] *= alpha[1];
          o[j][3] *= alpha[1];
        }
      }
#pragma unroll
      for (int j = 0; j < kKeys / 16; ++j) {
        const uint32_t a[4] = {pack2<T>(score[2 * j][0], score[2 * j][1]), pack2<T>(score[2 * j][2], score[2 * j][3]),
                               pack2<T>(score[2 * j + 1][0], score[2 * j + 1][1]),
                               pack2<T>(score[2 * j + 1][2], score[2 * j + 1][3])};
#pragma unroll
        for (int step = 0; step < kD / 16; ++step) {
          uint32_t b[4];
          ldmatrix_x4_transposed(b, Sw::template at_step<kKeys>(v_lane + stage, step) + j * 16 * Sw::kRowBytes);
          mma_16816<T>(o[2 * step], a, b[0], b[1]);
          mma_16816<T>(o[2 * step + 1], a, b[2], b[3]);
        }
      }
    }

    // The warp's state, in its own stage memory as [16, D] f32.
    cp_async_wait<0>();
    __syncwarp();
    float* const mine = reinterpret_cast<float*>(stages);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = quad_sum(row_sum[half]);
      const int row = row8 + half * 8;
      if (pair == 0) {
        s.max[warp][row] = row_max[half] * scale;
        s.sum[warp][row] = sum;
      }
#pragma unroll
      for (int j = 0; j < kD / 8; ++j)
        *reinterpret_cast<float2*>(mine + row * kD + j * 8 + pair * 2) = make_float2(o[j][2 * half], o[j][2 * half + 1]);
    }
    __syncthreads();  // all threads: every warp's state is visible

    constexpr int kPieces = kD / 4;
    for (int x = t; x < (row_last - row_begin + 1) * kPieces; x += Shape::kThreads) {
      const int in_tile = x / kPieces, piece = x - in_tile * kPieces, row = row_begin + in_tile;
      const int query = p.group.div(row), head = kv_head * group + row - query * group;
      SoftmaxState<Base2> state;
      float4 acc = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        SoftmaxState<Base2> part;
        part.max = s.max[w][in_tile];
        part.sum = s.sum[w][in_tile];
        const bool empty = part.empty();
        const MergeFactors f = state.merge(part);
        if (empty) continue;
        const float4 theirs = *reinterpret_cast<const float4*>(smem + w * Shape::kWarpBytes + (in_tile * kD + piece * 4) * 4);
        acc.x = acc.x * f.mine + theirs.x * f.theirs;
        acc.y = acc.y * f.mine + theirs.y * f.theirs;
        acc.z = acc.z * f.mine + theirs.z * f.theirs;
        acc.w = acc.w * f.mine + theirs.w * f.theirs;
      }
      const bool some = !state.empty();
      if (!splits && p.sink != nullptr && some) {
        SoftmaxState<Base2> sink;
        sink.max = p.sink[head] * kLog2E;
        sink.sum = 1.f;
        const float factor = state.merge(sink).mine;
        acc.x *= factor, acc.y *= factor, acc.z *= factor, acc.w *= factor;
      }
      const float inverse = some ? 1.f / state.sum : 0.f;
      acc.x *= inverse, acc.y *= inverse, acc.z *= inverse, acc.w *= inverse;
      if (splits) {
        const int64_t at = (split * p.part_rows + partial_row(p, request, query)) * p.num_qo_heads + head;
        if (piece == 0) p.part_lse[at] = state.lse();
        if (some) *reinterpret_cast<float4*>(p.part_out + at * kD + piece * 4) = acc;
      } else {
        const int64_t token = request.qo_begin + query;
        if (piece == 0 && p.lse != nullptr) p.lse[token * p.lse_token + head * p.lse_head] = state.lse();
        *reinterpret_cast<uint2*>(p.out + token * p.out_token + head * p.out_head + piece * 8) =
            make_uint2(pack2<T>(acc.x, acc.y), pack2<T>(acc.z, acc.w));
      }
    }
    __syncthreads();  // all threads: stage memory is free again
  }
}

template <typename T, class Shape, class Source, bool kExtra>
cudaError_t launch_decode(const AttentionParams& p, cudaStream_t stream) {
  constexpr int kBytes = decode_smem_bytes<Shape>();
  static_assert(kBytes <= 99 * 1024, "over what sm_86 gives a CTA");
  const auto kernel = decode_kernel<T, Shape, Source, kExtra>;
  const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  kernel<<<p.batch * p.num_kv_heads * p.num_splits, Shape::kThreads, kBytes, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace kvasir::cuda
