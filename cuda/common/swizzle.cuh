// Shared-memory layout of a tile of rows x kHeadDim 16-bit elements, free of bank conflicts for 16-byte writes and for ldmatrix.
//
// A tile is cut into segments of kChunks 16-byte chunks (128 bytes, or 64 where head_dim is no multiple of 64), each stored as
// [rows][kChunks]; chunk c of row r sits in place c ^ key(r), so that eight consecutive rows of one chunk column use all 32
// banks.
#pragma once
#include <cstdint>

namespace kvasir::cuda {

template <int kHeadDim>
struct Swizzle {
  static constexpr int kChunks = kHeadDim % 64 == 0 ? 8 : 4;  // per segment row
  static constexpr int kSegments = kHeadDim / (8 * kChunks);
  static constexpr int kRowBytes = kChunks * 16;        // of one segment
  static constexpr int kStepsPerSegment = kChunks / 2;  // k-steps of 16 elements
  static_assert(kHeadDim % 32 == 0);

  static constexpr int tile_bytes(int rows) { return rows * kHeadDim * 2; }

  __device__ static int key(int row) { return kChunks == 8 ? row & 7 : (row >> 1) & 3; }

  // Byte offset of chunk `chunk` of `row` within its segment.
  __device__ static uint32_t offset(int row, int chunk) { return row * kRowBytes + ((chunk ^ key(row)) << 4); }

  // Offset of element column 16 * step (plus what `lane_offset`'s chunk bit adds) for a tile of `rows` rows: segments are apart
  // by rows * kRowBytes, and within a segment the step flips address bits that the swizzle left to it.
  template <int kRows>
  __device__ static uint32_t at_step(uint32_t lane_address, int step) {
    return (lane_address ^ ((step % kStepsPerSegment) << 5)) + (step / kStepsPerSegment) * (kRows * kRowBytes);
  }
};

// Row and chunk bit that a lane addresses in ldmatrix.x4 for the A operand and for the transposed B operand (V) ...
__device__ __forceinline__ int lane_row_a(int lane) { return (lane & 7) + ((lane >> 3) & 1) * 8; }
__device__ __forceinline__ int lane_chunk_a(int lane) { return lane >> 4; }
// ... and for the plain B operand (K): two n-tiles of eight keys, both halves of k.
__device__ __forceinline__ int lane_row_b(int lane) { return (lane & 7) + (lane >> 4) * 8; }
__device__ __forceinline__ int lane_chunk_b(int lane) { return (lane >> 3) & 1; }

}  // namespace kvasir::cuda
