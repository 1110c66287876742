// One-thread kernels for what a stream does with host memory where the driver has no call for it, and small stores without a
// copy.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace kvasir::cuda {

inline constexpr size_t kStoreBytes = 3584;  // payload of one store: kernel parameters hold 4 KB

// flag = value + (base ? *base : 0), after everything before it in the stream is visible to the host.
cudaError_t launch_flag_write(cudaStream_t, uint64_t* flag, uint64_t value, const uint64_t* base);
// Holds the stream until flag >= value + (base ? *base : 0).
cudaError_t launch_flag_wait(cudaStream_t, const uint64_t* flag, uint64_t value, const uint64_t* base);
// Writes at most kStoreBytes bytes that travel with the launch: the source is free again at once.
cudaError_t launch_store(cudaStream_t, void* dst, const void* source, size_t bytes);

}  // namespace kvasir::cuda
