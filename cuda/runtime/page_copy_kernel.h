// The launcher of the kernels of page_copy.cuh.
#pragma once
#include <cuda_runtime_api.h>

#include "device.h"

namespace kvasir::cuda {

// The launch parameters that measurement chose; bench/native/page_copy_tune.cu tries others.
struct PageKernelTuning {
  int ctas;
  int ring_bytes;   // of shared memory a CTA: what it has in flight
  int piece_bytes;  // at most; a multiple of 16
};

// Copies all pages. `copy`'s host addresses are the device's too.
cudaError_t launch_page_copy(cudaStream_t, const Limits&, const kvasir_page_copy& copy);

}  // namespace kvasir::cuda
