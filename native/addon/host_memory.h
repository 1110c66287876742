// Large host memory of a CPU device, touched and page-locked by several threads off the JavaScript thread, and given back off it.
// It belongs to one storage. It holds both devices open: the CPU's backend owns the mapping, the other one's registered it.
#pragma once
#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "background.h"
#include "flags.h"

namespace kvasir::addon {

struct Completion;
class Device;

class HostMemory : public std::enable_shared_from_this<HostMemory> {
 public:
  // Maps the memory; no page of it exists yet. Throws ERR_KVASIR_OUT_OF_MEMORY.
  HostMemory(std::shared_ptr<Device> cpu, size_t bytes, std::shared_ptr<Device> pinned_for, bool allow_unpinned);
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  char* data() const { return static_cast<char*>(data_); }
  size_t bytes() const { return bytes_; }
  // Whether the device that it was to be pinned for, and with it every device of that backend, reaches it directly.
  bool pinned() const { return pinned_.load(std::memory_order_acquire); }
  size_t bytes_ready() const { return ready_.load(std::memory_order_relaxed); }

  // The rest is for the JavaScript thread. Starts the threads; the completion tells how it went.
  void prepare(std::unique_ptr<Completion> completion, int threads);
  void abort() { aborted_.store(true); }
  // Gives the memory back once `uses` has passed; for its storage.
  void release(Uses uses);
  // The device goes down: what it has of the memory is given back, all of it or the page locks alone.
  void end_on(Device& device);
  // Where its storage notes uses.
  void used_by(const Uses& uses) { uses_ = &uses; }

 private:
  class PrepareJob;
  class EndJob;

  void fill_in(int threads);  // a thread of its own
  void work(std::atomic<size_t>& next);
  void touch(char* from, size_t bytes);
  void lock_pages(char* from, size_t bytes);
  void end(Uses uses, bool everything);
  void unpin();
  void unmap();

  std::shared_ptr<Device> cpu_, pinned_for_;
  void* data_ = nullptr;
  const size_t bytes_;
  const bool allow_unpinned_;
  std::atomic<size_t> ready_{0};
  std::atomic<bool> pinned_{false}, aborted_{false}, preparing_{false}, failed_{false};
  std::atomic<bool> holds_cpu_{false}, holds_pinned_for_{false};
  const Uses* uses_ = nullptr;
  bool released_ = false;

  std::mutex lock_;                // guards what follows
  std::vector<char*> registered_;  // chunks
  std::string sentence_;           // why locking failed
};

}  // namespace kvasir::addon
