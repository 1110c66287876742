// A CPU device: its thread pool, its instruction set, and the first asynchronous error, which stays.
#pragma once
#include <atomic>
#include <mutex>
#include <string>
#include <unordered_map>

#include "../core/status.h"
#include "isa.h"
#include "thread_pool.h"

struct kvasir_device {
  explicit kvasir_device(const kvasir_device_options& options)
      : pool(options.threads), isa(kvasir::cpu::best_isa()), memory_limit(options.memory_limit) {}

  kvasir::cpu::ThreadPool pool;
  const kvasir::cpu::Isa isa;
  const int64_t memory_limit;  // bytes, 0: none

  std::mutex memory_lock;
  int64_t allocated = 0;
  std::unordered_map<void*, size_t> blocks;  // live allocations and their lengths

  // The first error wins.
  void lose(std::string sentence) {
    const std::lock_guard lock(lost_lock_);
    if (lost_.load(std::memory_order_relaxed)) return;
    lost_text_ = std::move(sentence);
    lost_.store(true, std::memory_order_release);
  }
  bool lost() const { return lost_.load(std::memory_order_acquire); }
  const std::string& lost_text() const { return lost_text_; }  // constant once lost()
  kvasir_status status(kvasir_error* err) const {
    return lost() ? kvasir::fail(err, KVASIR_DEVICE_LOST, "%s", lost_text_.c_str()) : KVASIR_OK;
  }

 private:
  std::atomic<bool> lost_{false};
  std::mutex lost_lock_;
  std::string lost_text_;
};
