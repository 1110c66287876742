// Which GPUs of the host this build can use, in words where it cannot.
#pragma once
#include <cuda_runtime_api.h>

#include "../../native/abi/kvasir_abi.h"

namespace kvasir::cuda {

// The number of usable devices; at 0, `why` names the failing layer.
int32_t count_usable_devices(kvasir_error* why);
// CUDA's number of the index-th usable device.
kvasir_status usable_ordinal(int32_t index, int* ordinal, kvasir_error*);
// Whether the current device can run what was compiled.
cudaError_t probe_code();
// "sm_80, sm_90".
const char* compiled_architectures();

}  // namespace kvasir::cuda
