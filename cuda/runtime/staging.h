// Pinned buffers by way of which streams copy from and to memory that is not pinned. They are kept for the next stream: the
// driver frees pinned memory only when the whole device has come to rest.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <mutex>
#include <vector>

namespace kvasir::cuda {

constexpr size_t kStagingBytes = size_t{8} << 20;  // some sixty pieces may wait in a stream before a call would have to

// The buffers of a device that no stream has now.
class StagingPool {
 public:
  StagingPool() = default;
  ~StagingPool() {  // the device is current, its streams are gone
    for (void* buffer : free_) cudaFreeHost(buffer);
  }
  StagingPool(const StagingPool&) = delete;
  StagingPool& operator=(const StagingPool&) = delete;

  cudaError_t take(void** out) {
    const std::lock_guard guard(lock_);
    if (free_.empty()) return cudaHostAlloc(out, kStagingBytes, cudaHostAllocDefault);
    *out = free_.back();
    free_.pop_back();
    return cudaSuccess;
  }
  void give_back(void* buffer) {
    const std::lock_guard guard(lock_);
    free_.push_back(buffer);
  }

 private:
  std::mutex lock_;
  std::vector<void*> free_;  // guarded by lock_
};

}  // namespace kvasir::cuda
