#include "counters.h"

namespace kvasir::cuda {

namespace {
constexpr int kBlocksPerSlab = 32;
}

CounterPool::~CounterPool() {
  for (void* slab : slabs_) cudaFree(slab);
}

cudaError_t CounterPool::take(unsigned** out) {
  *out = nullptr;
  const std::lock_guard<std::mutex> held(lock_);
  if (free_.empty()) {
    constexpr size_t kBytes = sizeof(unsigned) * kCounters * kBlocksPerSlab;
    void* slab = nullptr;
    cudaError_t result = cudaMalloc(&slab, kBytes);
    if (result != cudaSuccess) return result;
    slabs_.push_back(slab);
    result = cudaMemset(slab, 0, kBytes);
    if (result == cudaSuccess) result = cudaStreamSynchronize(cudaStreamLegacy);
    if (result != cudaSuccess) return result;
    for (int i = 0; i < kBlocksPerSlab; ++i) free_.push_back(static_cast<unsigned*>(slab) + i * kCounters);
  }
  *out = free_.back();
  free_.pop_back();
  return cudaSuccess;
}

void CounterPool::give_back(unsigned* block) {
  if (block == nullptr) return;
  const std::lock_guard<std::mutex> held(lock_);
  free_.push_back(block);
}

}  // namespace kvasir::cuda
