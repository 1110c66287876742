#include "mailbox.h"

#include <algorithm>

namespace kvasir::cuda {

namespace {
constexpr size_t kLeastBytes = size_t{2} << 20;
}

MailboxPool::~MailboxPool() {
  for (const MailboxBlock& block : free_) cudaFree(block.data);
  if (filling_ != nullptr) cudaStreamDestroy(filling_);
}

cudaError_t MailboxPool::take(size_t bytes, MailboxBlock* out) {
  const std::lock_guard<std::mutex> held(lock_);
  const auto by_size = [](const MailboxBlock& a, const MailboxBlock& b) { return a.bytes < b.bytes; };
  const auto found = std::lower_bound(free_.begin(), free_.end(), MailboxBlock{nullptr, bytes}, by_size);
  if (found != free_.end()) {
    *out = *found;
    free_.erase(found);
    return cudaSuccess;
  }
  MailboxBlock block = {nullptr, kLeastBytes};
  while (block.bytes < bytes) block.bytes *= 2;
  cudaError_t result = filling_ != nullptr ? cudaSuccess : cudaStreamCreateWithFlags(&filling_, cudaStreamNonBlocking);
  if (result == cudaSuccess) result = cudaMalloc(&block.data, block.bytes);
  if (result == cudaSuccess) result = cudaMemsetAsync(block.data, 0xff, block.bytes, filling_);
  if (result == cudaSuccess) result = cudaStreamSynchronize(filling_);
  if (result != cudaSuccess) {
    if (block.data != nullptr) cudaFree(block.data);
    return result;
  }
  *out = block;
  return cudaSuccess;
}

void MailboxPool::give_back(const MailboxBlock& block) {
  const std::lock_guard<std::mutex> held(lock_);
  const auto at = std::find_if(free_.begin(), free_.end(), [&](const MailboxBlock& b) { return b.bytes >= block.bytes; });
  free_.insert(at, block);
}

cudaError_t Mailbox::at_least(size_t bytes, MailboxPool& pool, void** out) {
  *out = nullptr;
  if (blocks_.empty() || blocks_.back().bytes < bytes) {
    MailboxBlock block;
    if (const cudaError_t result = pool.take(bytes, &block); result != cudaSuccess) return result;
    blocks_.push_back(block);
  }
  *out = blocks_.back().data;
  return cudaSuccess;
}

void Mailbox::give_back(MailboxPool& pool) {
  for (const MailboxBlock& block : blocks_) pool.give_back(block);
  blocks_.clear();
}

}  // namespace kvasir::cuda
