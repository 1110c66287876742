// Elements as they lie in memory and as kernels compute with them: scalar conversions, 16-byte vectors, and the way from a
// run-time dtype to a type.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "../../native/core/dtype.h"
#include "mma.cuh"

namespace kvasir::cuda {

// 8-bit floats by their bits; the formulas are core's, shared with the CPU.
struct F8E4M3 {
  uint8_t bits;
};
struct F8E5M2 {
  uint8_t bits;
};

template <class T>
__device__ __forceinline__ float as_float(T x) {
  if constexpr (__is_same(T, F8E4M3)) {
    return f8e4m3_to_float(x.bits);
  } else if constexpr (__is_same(T, F8E5M2)) {
    return f8e5m2_to_float(x.bits);
  } else {
    return to_float(x);
  }
}
template <class T>
__device__ __forceinline__ T as_element(float x) {
  if constexpr (__is_same(T, F8E4M3)) {
    return {float_to_f8e4m3(x)};
  } else if constexpr (__is_same(T, F8E5M2)) {
    return {float_to_f8e5m2(x)};
  } else {
    return from_float<T>(x);
  }
}

// kCount elements that are read and written at once; kCount = 1 where an address or a length is odd.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Vector {
  T elements[kCount];

  __device__ static Vector load(const T* p) { return *reinterpret_cast<const Vector*>(p); }
  __device__ void store(T* p) const { *reinterpret_cast<Vector*>(p) = *this; }
};
template <class T>
inline constexpr int kVectorLength = 16 / static_cast<int>(sizeof(T));

// Calls body with a value of the type of f32, f16 or bf16.
template <class Body>
auto with_dtype(int32_t dtype, Body&& body) {
  switch (dtype) {
    case KVASIR_F16: return body(__half{});
    case KVASIR_BF16: return body(__nv_bfloat16{});
    default: return body(float{});
  }
}
template <class Body>
auto with_any_float(int32_t dtype, Body&& body) {
  switch (dtype) {
    case KVASIR_F8E4M3: return body(F8E4M3{});
    case KVASIR_F8E5M2: return body(F8E5M2{});
    default: return with_dtype(dtype, body);
  }
}

// Whether every row of the tensor starts at a multiple of `bytes`.
inline bool rows_aligned(const kvasir_tensor& t, int bytes) {
  if (reinterpret_cast<uintptr_t>(t.data) % static_cast<uintptr_t>(bytes) != 0) return false;
  for (int i = 0; i + 1 < t.rank; ++i) {
    if (t.shape[i] > 1 && t.stride[i] * dtype_bytes(t.dtype) % bytes != 0) return false;
  }
  return true;
}

}  // namespace kvasir::cuda
