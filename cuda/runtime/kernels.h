// All kernels of this library, loaded when a device is opened. By default a kernel is loaded at its first launch, and the driver
// may make that wait until the device has come to rest: a launch behind a wait for a copy that another thread has yet to hand
// over would never return, for that thread's calls are held up meanwhile.
#pragma once
#include <cuda_runtime_api.h>

namespace kvasir::cuda {

// On the current device.
cudaError_t load_kernels();

}  // namespace kvasir::cuda
