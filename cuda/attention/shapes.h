// The tensor-core instantiations that exist, one row a head_dim: kernels are compiled from it and plans are made from it. What is not
// here (other head_dims, f32, views that are not aligned to 16 bytes) runs on the plain kernel of simt.cu.
// keys is the same for both prefill shapes, so that batch-invariant results do not depend on which of them ran.
#pragma once

namespace kvasir::cuda {

struct PrefillTile {
  int rows, warps, stages;
};
struct TensorCoreShape {
  int head_dim;
  PrefillTile prefill, small;  // small: few packed rows a request
  int keys;                    // of a prefill tile
  int decode_warps, decode_keys, decode_stages;
};

inline constexpr TensorCoreShape kTensorCoreShapes[] = {
    {.head_dim = 64, .prefill = {128, 4, 2}, .small = {64, 4, 2}, .keys = 64, .decode_warps = 4, .decode_keys = 32, .decode_stages = 3},
    {.head_dim = 96, .prefill = {128, 4, 2}, .small = {64, 4, 2}, .keys = 64, .decode_warps = 4, .decode_keys = 16, .decode_stages = 4},
    {.head_dim = 128, .prefill = {128, 4, 2}, .small = {64, 4, 2}, .keys = 64, .decode_warps = 4, .decode_keys = 16, .decode_stages = 3},
    {.head_dim = 192, .prefill = {64, 4, 1}, .small = {64, 4, 1}, .keys = 64, .decode_warps = 2, .decode_keys = 16, .decode_stages = 4},
    {.head_dim = 256, .prefill = {64, 4, 1}, .small = {64, 4, 1}, .keys = 64, .decode_warps = 2, .decode_keys = 16, .decode_stages = 3},
};

// nullptr: no instantiation.
constexpr const TensorCoreShape* find_tensor_core_shape(int head_dim) {
  for (const TensorCoreShape& shape : kTensorCoreShapes) {
    if (shape.head_dim == head_dim) return &shape;
  }
  return nullptr;
}

// CTAs that share a multiprocessor where it has the shared memory for them (sm_80, sm_90); the plan's grid is sized by it.
inline constexpr int kCtasPerSm = 2;

}  // namespace kvasir::cuda
