// Descriptors by which Hopper's copy engine addresses memory, made by the driver's encoder (looked up at run time: nothing links
// libcuda).
#pragma once
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace kvasir::cuda {

struct TensorMapShape {
  void* base;          // multiple of 16
  int rank;            // 4 or 5
  uint64_t size[5];    // elements of 16 bits; size[0] is contiguous
  uint64_t stride[4];  // bytes, multiples of 16, of dimensions 1..rank-1; they may overlap
  uint32_t box[5];     // box[0] elements of one swizzled row: 64 (128-byte swizzle) or 32 (64-byte swizzle)
};

// cudaErrorNotSupported where the driver has no encoder or refuses the shape.
cudaError_t encode_tensor_map(CUtensorMap* out, const TensorMapShape&);

}  // namespace kvasir::cuda
