// The operands of a decode warp that are not as they come: Q, packed rows of (query, head) as fragments, and keys that are
// rotated where they lie.
#pragma once
#include "../common/mma.cuh"
#include "../common/swizzle.cuh"
#include "decode_load.cuh"

namespace kvasir::cuda {

// Q of a block of rows as B fragments (k = head_dim, n = row); rows past the last are zeros. In registers, or through shared
// memory where there are too many.
template <class Shape>
struct QueryRows {
  using Sw = Swizzle<Shape::kHeadDim>;
  static constexpr int kSteps = Shape::kHeadDim / 16, kRowTiles = Shape::kWarpRows / 8;
  uint32_t held[Shape::kQInSmem ? 1 : kSteps][Shape::kQInSmem ? 1 : kRowTiles][2];
  uint32_t smem;  // this lane's address

  static __device__ const char* row_of(const AttentionParams& p, const ItemRows& item, int row) {
    const int packed = item.row_begin + (row < item.rows ? row : 0), query = p.group.div(packed);
    const int head = item.kv_head * static_cast<int>(p.group.divisor) + p.group.mod(packed);
    return p.q + (item.request.qo_begin + query) * p.q_token + head * p.q_head;
  }

  // Barrier where kQInSmem: all arrive and wait; the caller has seen to it that no warp reads the rows before.
  __device__ void load(const AttentionParams& p, const ItemRows& item, char* memory, int first_row) {
    const int t = threadIdx.x, lane = t & 31;
    if constexpr (Shape::kQInSmem) {
      constexpr int kChunks = Shape::kHeadDim / 8, kRounds = Shape::kRows * kChunks / Shape::kThreads;
      static_assert(kRounds * Shape::kThreads == Shape::kRows * kChunks);
      uint4 data[kRounds];  // all loads before the first store
#pragma unroll
      for (int i = 0; i < kRounds; ++i) {
        const int x = t + i * Shape::kThreads, row = x / kChunks, chunk = x - row * kChunks;
        data[i] = row < item.rows ? *reinterpret_cast<const uint4*>(row_of(p, item, row) + chunk * 16) : uint4{};
      }
#pragma unroll
      for (int i = 0; i < kRounds; ++i) {
        const int x = t + i * Shape::kThreads, row = x / kChunks, chunk = x - row * kChunks;
        *reinterpret_cast<uint4*>(memory + chunk / Sw::kChunks * Shape::kRows * Sw::kRowBytes +
                                  Sw::offset(row, chunk % Sw::kChunks)) = data[i];
      }
      __syncthreads();
      smem = smem_address(memory) + first_row * Sw::kRowBytes + Sw::offset(lane_row_b(lane), lane_chunk_b(lane));
    } else {
      const int row8 = lane >> 2, pair = lane & 3;
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n) {
        const int row = first_row + n * 8 + row8;
        const bool live = row < item.rows;
        const char* from = row_of(p, item, row) + pair * 4;
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          held[step][n][0] = live ? *reinterpret_cast<const uint32_t*>(from + step * 32) : 0u;
          held[step][n][1] = live ? *reinterpret_cast<const uint32_t*>(from + step * 32 + 16) : 0u;
        }
      }
    }
  }

  // The same in two steps, through shared memory: the rows of a warp are on their way (cp.async) ...
  static constexpr int kCopyStride = (Shape::kHeadDim + 63) / 64 * 128, kCopyBytes = Shape::kWarpRows * kCopyStride;
  static __device__ void copy(const AttentionParams& p, const ItemRows& item, uint32_t to, int first_row) {
    constexpr int kChunks = Shape::kHeadDim / 8;
#pragma unroll
    for (int x = threadIdx.x & 31; x < Shape::kWarpRows * kChunks; x += 32) {
      const int row = x / kChunks, chunk = x - row * kChunks;
      cp_async_16(to + row * kCopyStride + ((chunk ^ (row & 7)) * 16), row_of(p, item, first_row + row) + chunk * 16,
                  first_row + row < item.rows ? 16 : 0);
    }
  }
  // ... and are taken once the warp sees them; where kQInSmem, the caller's next barrier makes all of them visible.
  __device__ void take(const char* from, char* memory, int first_row) {
    const int lane = threadIdx.x & 31, row8 = lane >> 2, pair = lane & 3;
    if constexpr (Shape::kQInSmem) {
      constexpr int kChunks = Shape::kHeadDim / 8;
      for (int x = threadIdx.x % (Shape::kWarps * 32); x < Shape::kWarpRows * kChunks; x += Shape::kWarps * 32) {
        const int row = x / kChunks, chunk = x - row * kChunks;
        *reinterpret_cast<uint4*>(memory + chunk / Sw::kChunks * Shape::kRows * Sw::kRowBytes +
                                  Sw::offset(first_row + row, chunk % Sw::kChunks)) =
            *reinterpret_cast<const uint4*>(from + row * kCopyStride + ((chunk ^ (row & 7)) * 16));
      }
      smem = smem_address(memory) + first_row * Sw::kRowBytes + Sw::offset(lane_row_b(lane), lane_chunk_b(lane));
    } else {
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n) {
        const char* row = from + (n * 8 + row8) * kCopyStride + pair * 4;
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          held[step][n][0] = *reinterpret_cast<const uint32_t*>(row + ((2 * step) ^ row8) * 16);
          held[step][n][1] = *reinterpret_cast<const uint32_t*>(row + ((2 * step + 1) ^ row8) * 16);
        }
      }
    }
  }

  __device__ void at(int step, uint32_t (&b)[kRowTiles][2]) const {
    if constexpr (Shape::kQInSmem) {
      static_assert(kRowTiles % 2 == 0);
#pragma unroll
      for (int n = 0; n < kRowTiles; n += 2) {
        uint32_t r[4];
        ldmatrix_x4(r, Sw::template at_step<Shape::kRows>(smem, step) + n * 8 * Sw::kRowBytes);
        b[n][0] = r[0], b[n][1] = r[1], b[n + 1][0] = r[2], b[n + 1][1] = r[3];
      }
    } else {
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n) b[n][0] = held[step][n][0], b[n][1] = held[step][n][1];
    }
  }
};

// Rotates a unit's keys where they lie; the whole warp calls it.
template <typename T, class Shape>
__device__ __forceinline__ void rotate_keys(const AttentionParams& p, const UnitNotes<Shape>& notes, char* k_unit, int warp,
                                            int stage, int lane) {
  using Sw = Swizzle<Shape::kHeadDim>;
  for (int x = lane; x < Shape::kKeys * p.rotary_pairs; x += 32) {
    const int row = x / p.rotary_pairs, d = x - row * p.rotary_pairs, d2 = d + p.rotary_pairs;
    const auto element = [&](int column) {
      const int chunk = column / 8,
                at = chunk / Sw::kChunks * Shape::kKeys * Sw::kRowBytes + Sw::offset(row, chunk % Sw::kChunks);
      return reinterpret_cast<T*>(k_unit + at) + column % 8;
    };
    const float position = static_cast<float>(notes.start[warp][stage][row / kPageGroup] + row % kPageGroup);
    float sine, cosine;
    sincosf(__fmul_rn(position, p.k_inv_freq[d]), &sine, &cosine);
    sine *= p.rope_scale;
    cosine *= p.rope_scale;
    const float a = to_float(*element(d)), b = to_float(*element(d2));
    *element(d) = from_float<T>(a * cosine - b * sine);
    *element(d2) = from_float<T>(b * cosine + a * sine);
  }
}

}  // namespace kvasir::cuda
