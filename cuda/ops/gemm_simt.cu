// out [rows, out_features] = x · weightᵀ + bias with f32 multiply-adds in the order of the features: f32, and 16-bit rows at odd
// addresses. A CTA computes 64 x 64 outputs, 4 x 4 per thread, from tiles of 16 features in shared memory.
#include "../common/convert.cuh"
#include "gemm.h"

namespace kvasir::cuda {

namespace {

constexpr int kTile = 64, kStep = 16, kPerThread = 4, kThreads = 256;
constexpr int kPitch = kTile + 4;  // rows of the transposed tiles stay 16-byte aligned and spread over the banks

template <class T>
__global__ void __launch_bounds__(kThreads) gemm_kernel(const MatrixProduct p) {
  __shared__ __align__(16) float x_tile[kStep][kPitch], weight_tile[kStep][kPitch];
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kTile, first_column = static_cast<int64_t>(blockIdx.x) * kTile;
  const int column4 = threadIdx.x % 16 * kPerThread, row4 = threadIdx.x / 16 * kPerThread;
  float acc[kPerThread][kPerThread] = {};
  for (int64_t begin = 0; begin < p.in_features; begin += kStep) {
#pragma unroll
    for (int i = threadIdx.x; i < kTile * kStep; i += kThreads) {
      const int k = i % kStep, r = i / kStep;
      const bool inside = begin + k < p.in_features;
      const bool row_inside = inside && first_row + r < p.rows, column_inside = inside && first_column + r < p.out_features;
      x_tile[k][r] = row_inside ? as_float(static_cast<const T*>(p.x)[(first_row + r) * p.x_stride + begin + k]) : 0.f;
      weight_tile[k][r] =
          column_inside ? as_float(static_cast<const T*>(p.weight)[(first_column + r) * p.weight_stride + begin + k]) : 0.f;
    }
    __syncthreads();  // the tiles are complete
#pragma unroll
    for (int k = 0; k < kStep; ++k) {
      const auto a = Vector<float, kPerThread>::load(&x_tile[k][row4]),
                 b = Vector<float, kPerThread>::load(&weight_tile[k][column4]);
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
        for (int j = 0; j < kPerThread; ++j) acc[i][j] = fmaf(a.elements[i], b.elements[j], acc[i][j]);
      }
    }
    __syncthreads();  // everybody is done with the tiles
  }
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const int64_t row = first_row + row4 + i, column = first_column + column4 + j;
      if (row >= p.rows || column >= p.out_features) continue;
      const float value = acc[i][j] + (p.bias == nullptr ? 0.f : as_float(static_cast<const T*>(p.bias)[column]));
      const int64_t at = row * p.out_stride + column;
      if (p.out_dtype == KVASIR_F32)
        static_cast<float*>(p.out)[at] = value;
      else
        static_cast<T*>(p.out)[at] = as_element<T>(value);
    }
  }
}

}  // namespace

cudaError_t launch_simt_gemm(const MatrixProduct& p, cudaStream_t stream) {
  // Row tiles go along y, at most 65535 of them a launch.
  constexpr int64_t kRowsPerLaunch = int64_t{65535} * kTile;
  for (int64_t begin = 0; begin < p.rows; begin += kRowsPerLaunch) {
    MatrixProduct part = p;
    part.rows = min(kRowsPerLaunch, p.rows - begin);
    part.x = static_cast<const char*>(p.x) + begin * p.x_stride * dtype_bytes(p.dtype);
    part.out = static_cast<char*>(p.out) + begin * p.out_stride * dtype_bytes(p.out_dtype);
    const dim3 grid(static_cast<unsigned>((p.out_features + kTile - 1) / kTile),
                    static_cast<unsigned>((part.rows + kTile - 1) / kTile));
    with_dtype(p.dtype, [&](auto zero) { gemm_kernel<decltype(zero)><<<grid, kThreads, 0, stream>>>(part); });
  }
  return cudaGetLastError();
}

}  // namespace kvasir::cuda
