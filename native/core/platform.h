// Marks a function that the CPU backend, the addon and CUDA kernels share: one formula, compiled for both sides.
#pragma once

#ifdef __CUDACC__
#define KVASIR_HD __host__ __device__ __forceinline__
#else
#define KVASIR_HD inline
#endif
