// Programmatic dependent launch (sm_90): a kernel launched with the attribute is set up, and may start, while the one before it
// drains. The rules here: every CTA of a dependent waits, before it writes anything but advice (attention/decode_ahead.cuh) and
// before it trusts what it reads. Then a kernel may release its own dependents at once: they wait for its end, and so for all
// ends before. Elsewhere both calls do nothing.
#pragma once
#include <cuda_runtime.h>

namespace kvasir::cuda {

// Returns once the kernels before this one have ended and their results are visible.
__device__ __forceinline__ void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}

// Lets the next kernel start, if it was launched as a dependent, when all CTAs have called this or ended.
__device__ __forceinline__ void release_dependents() {
#if __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

}  // namespace kvasir::cuda
