// A CUDA device: its primary context, what the hardware offers, and whether it is still alive. A sticky error loses it for good.
#pragma once
#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "../../native/abi/kvasir_abi.h"

namespace kvasir::cuda {

class Blas;
class MailboxPool;
class StagingPool;
class Watcher;

// What launchers may count on; read off the device once.
struct Limits {
  int sm_count = 0;
  int cc_major = 0, cc_minor = 0;
  int smem_per_sm = 0;
  int smem_per_cta = 0;  // after opting in
  int64_t l2_bytes = 0;
  int64_t total_bytes = 0;
  char name[128] = {};
};

}  // namespace kvasir::cuda

struct kvasir_device {
 public:
  static kvasir_status open(const kvasir_device_options&, kvasir_device**, kvasir_error*);
  ~kvasir_device();
  kvasir_device(const kvasir_device&) = delete;
  kvasir_device& operator=(const kvasir_device&) = delete;

  const kvasir::cuda::Limits& limits() const { return limits_; }
  int ordinal() const { return ordinal_; }

  // Makes this the calling thread's device, or fails because it is lost. Every entry from the addon starts here.
  kvasir_status enter(kvasir_error*);
  // The status of a CUDA call, with a sentence about what was being done. Sticky errors lose the device; others are cleared.
  kvasir_status check(cudaError_t, const char* doing, kvasir_error*);
  kvasir_status status(kvasir_error*);  // asks the driver
  bool lost() const { return lost_.load(std::memory_order_acquire); }
  kvasir_status lost_status(kvasir_error*);

  kvasir_status alloc(size_t bytes, void** out, kvasir_error*);
  void free(void*);

  kvasir::cuda::Watcher& watcher() { return *watcher_; }
  kvasir::cuda::Blas& blas() { return *blas_; }
  kvasir::cuda::MailboxPool& mailboxes() { return *mailboxes_; }
  kvasir::cuda::StagingPool& stagings() { return *stagings_; }

 private:
  kvasir_device();
  void lose(cudaError_t, const char* doing);

  int ordinal_ = 0;
  int64_t memory_limit_ = 0;
  kvasir::cuda::Limits limits_;
  std::atomic<bool> lost_{false};
  std::mutex lock_;  // guards what follows
  kvasir_error first_error_{};
  int64_t allocated_ = 0;
  std::unordered_map<void*, size_t> allocations_;
  std::unique_ptr<kvasir::cuda::MailboxPool> mailboxes_;  // outlives the programs that the watcher still holds
  std::unique_ptr<kvasir::cuda::StagingPool> stagings_;
  std::unique_ptr<kvasir::cuda::Watcher> watcher_;
  std::unique_ptr<kvasir::cuda::Blas> blas_;
};
