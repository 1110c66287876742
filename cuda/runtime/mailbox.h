// Mailboxes: device memory through which the CTAs of a launch hand each other partial results (attention/decode_join.cuh), and
// launches take turns (attention/decode_ahead.cuh). A mailbox is filled with ones when it is allocated, and kernels leave it as
// they found it, but for turns, which are level. A stream has one for its own launches and a program one for its nodes, for
// launches of one stream follow one another and a program's are none of the stream's that recorded it.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <mutex>
#include <vector>

namespace kvasir::cuda {

struct MailboxBlock {
  void* data;
  size_t bytes;
};

// The blocks of a device that no mailbox has now.
class MailboxPool {
 public:
  MailboxPool() = default;
  ~MailboxPool();  // the device is current, its streams and programs are gone
  MailboxPool(const MailboxPool&) = delete;
  MailboxPool& operator=(const MailboxPool&) = delete;

  // A block of at least so many bytes; also while a stream of the caller's records.
  cudaError_t take(size_t bytes, MailboxBlock* out);
  void give_back(const MailboxBlock&);

 private:
  std::mutex lock_;  // guards what follows
  cudaStream_t filling_ = nullptr;
  std::vector<MailboxBlock> free_;
};

// Grows as launches ask for more. What was handed out before stays valid, for launches may still use it.
class Mailbox {
 public:
  cudaError_t at_least(size_t bytes, MailboxPool& pool, void** out);
  void give_back(MailboxPool& pool);  // everything

 private:
  std::vector<MailboxBlock> blocks_;  // each larger than the one before
};

}  // namespace kvasir::cuda
