// Reductions over a CTA, in an order that depends on its size alone: same bits on every run.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace kvasir::cuda {

struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Least {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};

// Every thread gets the result. blockDim.x is a multiple of 32, at most 1024. Ends with a barrier, so that calls may follow each
// other.
template <class T, class Op>
__device__ T block_reduce(T value, T identity, Op op) {
  __shared__ T partial[32];
  for (int offset = 16; offset > 0; offset /= 2) value = op(value, __shfl_xor_sync(0xffffffffu, value, offset));
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();  // all warps' partials are there
  const int warps = static_cast<int>(blockDim.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  value = lane < warps ? partial[lane] : identity;
  for (int offset = 16; offset > 0; offset /= 2) value = op(value, __shfl_xor_sync(0xffffffffu, value, offset));
  __syncthreads();  // everybody has read them
  return value;
}

// Orders logits: the smaller key is the larger logit, then the lower index. NaN counts as -inf, -0 as +0.
__device__ __forceinline__ uint64_t order_key(float logit, uint32_t index) {
  const uint32_t bits = __float_as_uint(logit == logit ? logit + 0.f : -INFINITY);
  return static_cast<uint64_t>((bits & 0x80000000u) != 0 ? bits : ~(bits | 0x80000000u)) << 32 | index;
}
__device__ __forceinline__ float logit_of(uint64_t key) {
  const uint32_t high = static_cast<uint32_t>(key >> 32);
  return __uint_as_float((high & 0x80000000u) != 0 ? high : ~high & 0x7fffffffu);
}

}  // namespace kvasir::cuda
