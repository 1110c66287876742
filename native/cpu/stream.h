// A CPU stream: one worker thread and an in-order queue of commands. A program is the same list of commands, kept and replayed by
// one queue item. Calls come from one thread at a time (the addon's JavaScript thread, or a transfer stream's own); the worker is
// the only other party.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

#include "command_list.h"
#include "device.h"

struct kvasir_program {
  kvasir::cpu::CommandList commands;
  std::atomic<int32_t> owners{1};  // the handle, and every launch still in flight

  void retain() { owners.fetch_add(1, std::memory_order_relaxed); }
  void release() {
    if (owners.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }
};

struct kvasir_stream {
 public:
  explicit kvasir_stream(kvasir_device& device);
  ~kvasir_stream();  // waits for the queue to run dry
  kvasir_stream(const kvasir_stream&) = delete;
  kvasir_stream& operator=(const kvasir_stream&) = delete;

  kvasir_device& device() { return device_; }
  bool recording() const { return recording_ != nullptr; }
  void begin_recording() { recording_ = std::make_unique<kvasir_program>(); }
  kvasir_program* end_recording() { return recording_.release(); }

  // Appends a command, with the bytes that follow it, to the queue or to the program being recorded.
  template <class Command>
  void push(const Command& command, const void* tail = nullptr, size_t tail_bytes = 0, const void* more = nullptr,
            size_t more_bytes = 0) {
    if (recording_ != nullptr) {
      recording_->commands.push(command, tail, tail_bytes, more, more_bytes);
      return;
    }
    {
      const std::lock_guard lock(lock_);
      pending_.push(command, tail, tail_bytes, more, more_bytes);
    }
    wake();
  }

  // Nanoseconds of the steady clock when the stream passed the stamp, 0 before.
  int64_t stamp_at(int32_t slot) const { return stamps_[static_cast<size_t>(slot)].load(std::memory_order_acquire); }

 private:
  void wake();
  void work();
  bool take();  // moves what is pending to running_; false when nothing was
  void run(const kvasir::cpu::CommandList& commands);

  kvasir_device& device_;
  std::unique_ptr<kvasir_program> recording_;
  std::mutex lock_;
  kvasir::cpu::CommandList pending_;  // guarded by lock_
  kvasir::cpu::CommandList running_;  // the worker's
  std::atomic<uint32_t> signal_{0};   // rises with every push
  std::atomic<bool> sleeping_{false}, stop_{false};
  std::array<std::atomic<int64_t>, KVASIR_STAMP_SLOTS> stamps_{};
  std::thread worker_;
};
