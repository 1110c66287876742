// The tensor-core instantiations that exist, one row a head_dim: kernels are compiled from it and plans are made from it. What is
// not here (other head_dims, f32, views that are not aligned to 16 bytes) runs on the plain kernel of simt.cu. keys is the same
// for both prefill tiles, so that batch-invariant results do not depend on which of them ran.
#pragma once

namespace kvasir::cuda {

struct PrefillTile {
  int rows, warps, stages;
  bool q_in_registers;
};
struct TensorCoreShape {
  int head_dim;
  PrefillTile prefill, small;  // small: few packed rows a request
  int keys;                    // of a prefill tile
  int decode_warps, decode_keys, decode_stages;
};

inline constexpr TensorCoreShape kTensorCoreShapes[] = {
    {64, {128, 4, 2, true}, {64, 4, 2, true}, 96, 4, 32, 3},   {96, {128, 4, 2, false}, {64, 4, 2, true}, 64, 4, 32, 2},
    {128, {128, 4, 2, false}, {64, 4, 2, true}, 64, 4, 16, 3}, {192, {64, 4, 1, true}, {64, 4, 1, true}, 80, 4, 16, 2},
    {256, {64, 4, 2, true}, {64, 4, 2, true}, 32, 2, 16, 3},
};

// nullptr: no instantiation.
constexpr const TensorCoreShape* find_tensor_core_shape(int head_dim) {
  for (const TensorCoreShape& shape : kTensorCoreShapes) {
    if (shape.head_dim == head_dim) return &shape;
  }
  return nullptr;
}

// CTAs that share a multiprocessor where it has the shared memory for them (sm_80, sm_90); grids are sized by it.
inline constexpr int kCtasPerSm = 2;

}  // namespace kvasir::cuda
