// Our own matrix product, for hosts without cuBLASLt and for batch invariance: every element is summed over slices of kSlice
// features, each in order, and the slices' sums in order, whatever the tile shape and however the slices are spread over CTAs.
#pragma once
#include "../runtime/blas.h"

namespace kvasir::cuda {

inline constexpr int kSlice = 512;

// Scratch for the sums of slices that run side by side; 0 where one CTA walks them all.
size_t gemm_workspace(const MatrixProduct&, int sm_count);

// For 16-bit rows at multiples of 16 bytes; the other takes anything, f32 included.
bool tensor_core_takes(const MatrixProduct&);
cudaError_t launch_tensor_core_gemm(const MatrixProduct&, void* workspace, int sm_count, cudaStream_t);
cudaError_t launch_simt_gemm(const MatrixProduct&, cudaStream_t);

}  // namespace kvasir::cuda
