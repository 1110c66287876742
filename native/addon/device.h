// An open device: its memory pool, its streams, its first asynchronous error. Closing it happens on the background thread, once
// every stream has run dry. Also here: what one environment owns beside its JavaScript values.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <vector>

#include "background.h"
#include "copy_thread.h"
#include "flags.h"
#include "memory.h"
#include "standstills.h"

namespace kvasir::addon {

class AnyStream;
class Event;
class HostMemory;
class Program;
class StagingRing;

// Work with threads of its own that must have ended before devices close.
struct Ending {
  virtual ~Ending() = default;
  virtual void end() = 0;
};

// Everything native of one JavaScript environment. Devices hold it, and all else holds a device.
struct Environment {
  FlagSlabs flags;
  Background background;
  CopyThread page_copies{flags};
  Standstills standstills;
  std::vector<std::weak_ptr<Device>> devices;
  std::unordered_set<Event*> events;
  std::unordered_set<Ending*> endings;
  std::atomic<int> ending{0};  // streams and devices that the background thread has still to end

  // Holds a caller up that creates streams or devices faster than they can be ended, so that their threads do not pile up.
  void let_endings_catch_up() const;
  // Disposes every device and returns when they are closed; called when the environment goes down.
  void close();
};

class Device : public std::enable_shared_from_this<Device> {
 public:
  static std::shared_ptr<Device> open(std::shared_ptr<Environment> environment, const kvasir_backend* backend,
                                      const kvasir_device_options& options);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  Environment& environment() const { return *environment_; }
  const kvasir_backend* backend() const { return backend_; }
  kvasir_device* handle() const { return handle_; }
  const std::string& label() const { return label_; }  // "cpu", "cuda:0"
  // Whether this process reads and writes the device's memory directly.
  bool on_host() const { return on_host_; }
  Pool& pool() { return pool_; }
  StagingRing& staging();

  int64_t allocated_bytes() const { return allocated_; }
  void count_allocated(int64_t bytes) { allocated_ += bytes; }
  int64_t free_bytes() const;

  // Throws ERR_KVASIR_DISPOSED or ERR_KVASIR_DEVICE_LOST.
  void check_usable();
  bool disposed() const { return disposed_.load(std::memory_order_acquire); }
  bool lost() const { return lost_.load(std::memory_order_acquire); }
  std::string lost_sentence() const;
  // From any thread; the first sentence stays.
  void lose(const std::string& sentence);
  // Asks the backend, and notes what it says. From any thread.
  bool poll_lost();
  // Frees other devices' streams from waiting for this one. JavaScript thread; does its work once.
  void release_waiters();

  // Whether a matrix product of these shapes and types is asked for here for the first time.
  bool is_new_product(const kvasir_linear_args& args);

  // Ends all streams and programs; the memory goes when they have run dry. A no-op the second time.
  void dispose();
  // One step of closing: false while something is still in flight. Background thread.
  bool try_close();

  void add(AnyStream* stream) { streams_.insert(stream); }
  void remove(AnyStream* stream) { streams_.erase(stream); }
  void add(Program* program) { programs_.insert(program); }
  void remove(Program* program) { programs_.erase(program); }
  void add(HostMemory* memory) { host_memories_.insert(memory); }
  void remove(HostMemory* memory) { host_memories_.erase(memory); }
  // Of streams and of host memory, from any thread: the device is not closed while it is held.
  void hold_open() { holds_.fetch_add(1); }
  void let_close() { holds_.fetch_sub(1); }

  // Uses of this device's memory by other devices' streams.
  Uses foreign;

 private:
  void close_soon();
  Device(std::shared_ptr<Environment> environment, const kvasir_backend* backend, kvasir_device* handle, int index);

  std::shared_ptr<Environment> environment_;
  const kvasir_backend* backend_;
  kvasir_device* handle_;
  std::string label_;
  bool on_host_;
  Pool pool_;
  std::unique_ptr<StagingRing> staging_;
  int64_t allocated_ = 0;
  std::unordered_set<AnyStream*> streams_;
  std::unordered_set<Program*> programs_;
  std::unordered_set<uint64_t> products_;
  std::unordered_set<HostMemory*> host_memories_;
  std::atomic<int> holds_{0};
  std::atomic<bool> disposed_{false}, lost_{false};
  bool waiters_released_ = false;
  mutable std::mutex lost_lock_;
  std::string lost_sentence_;
};

}  // namespace kvasir::addon
