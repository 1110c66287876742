// The tensor-core instantiations that exist, one row a head_dim: kernels are compiled from it and plans are made from it. What is
// not here (other head_dims, f32, views that are not aligned to 16 bytes) runs on the plain kernel of simt.cu. keys is the same
// for both prefill tiles, so that batch-invariant results do not depend on which of them ran.
#pragma once
#include <cstdint>

namespace kvasir::cuda {

struct PrefillTile {
  int rows, warps, stages;
  bool q_in_registers;
};
struct DecodeTile {
  int rows, warps, keys, stages;  // keys of a warp's unit; warps 0: there is none
  int ctas_per_sm;                // of one grid ...
  int resident;                   // ... and of all, at most
  int halves = 1;                 // warps that share a unit, each with its part of the rows

  // Q's fragments of that many rows would not leave registers enough.
  constexpr bool q_in_smem(int head_dim) const { return head_dim / 16 * (rows / halves / 8) * 2 > 48; }
  // At most so much shared memory: stages, Q, and bookkeeping.
  constexpr int smem_bytes(int head_dim) const {
    return warps * stages * keys * head_dim * 4 + (q_in_smem(head_dim) ? rows * head_dim * 2 : 0) + 2560;
  }
};
struct TensorCoreShape {
  int head_dim;
  PrefillTile prefill, small;  // small: few packed rows a request
  int keys;                    // of a prefill tile
  // Decode for up to 8, 16 and 32 packed rows a request: with cp.async (sm_80; 99 KB fit sm_86 too), with bulk copies (sm_90).
  DecodeTile decode[3], bulk_decode[3];
};

inline constexpr TensorCoreShape kTensorCoreShapes[] = {
    {64,
     {128, 4, 2, true},
     {64, 4, 2, true},
     96,
     {{8, 4, 32, 3, 1, 1}, {16, 4, 32, 3, 1, 1}, {32, 4, 32, 2, 1, 1}},
     {{8, 4, 32, 3, 2, 2}, {16, 4, 32, 3, 2, 2}, {32, 4, 32, 3, 2, 2}}},
    {96,
     {128, 4, 2, false},
     {64, 4, 2, true},
     64,
     {{8, 4, 16, 4, 1, 1}, {16, 4, 16, 4, 1, 1}, {32, 2, 32, 3, 1, 1}},
     {{8, 4, 32, 3, 1, 1}, {16, 4, 32, 3, 1, 1}, {32, 4, 32, 3, 1, 1, 2}}},
    {128,
     {128, 4, 2, false},
     {64, 4, 2, true},
     64,
     {{8, 4, 16, 3, 1, 1}, {16, 4, 16, 2, 1, 1}, {32, 2, 32, 2, 1, 1}},
     {{8, 4, 32, 3, 1, 1}, {16, 4, 32, 3, 1, 1, 2}, {32, 4, 32, 3, 1, 1, 2}}},
    {192,
     {64, 4, 1, true},
     {64, 4, 1, true},
     80,
     {{8, 2, 16, 3, 1, 1}, {16, 2, 16, 3, 1, 1}, {}},
     {{8, 4, 16, 4, 1, 1}, {16, 4, 16, 4, 1, 1}, {}}},
    {256,
     {64, 4, 2, true},
     {64, 4, 2, true},
     32,
     {{8, 2, 16, 2, 1, 1}, {16, 2, 16, 2, 1, 1}, {}},
     {{8, 4, 16, 3, 1, 1}, {16, 4, 16, 3, 1, 1}, {}}},
};

// nullptr: no instantiation.
constexpr const TensorCoreShape* find_tensor_core_shape(int head_dim) {
  for (const TensorCoreShape& shape : kTensorCoreShapes) {
    if (shape.head_dim == head_dim) return &shape;
  }
  return nullptr;
}

// The decode tile for requests of so many packed rows; nullptr: too many.
constexpr const DecodeTile* find_decode_tile(const TensorCoreShape& shape, bool bulk, int64_t rows) {
  for (const DecodeTile& tile : bulk ? shape.bulk_decode : shape.decode) {
    if (tile.warps > 0 && rows <= tile.rows) return &tile;
  }
  return nullptr;
}

constexpr bool decode_tiles_fit() {
  for (const TensorCoreShape& shape : kTensorCoreShapes) {
    for (const DecodeTile& tile : shape.decode) {
      if (tile.smem_bytes(shape.head_dim) > 99 * 1024) return false;
    }
  }
  return true;
}
static_assert(decode_tiles_fit(), "over what sm_86 gives a CTA");

// Prefill CTAs that share a multiprocessor where it has the shared memory for them (sm_80, sm_90); grids are sized by it.
inline constexpr int kCtasPerSm = 2;

}  // namespace kvasir::cuda
