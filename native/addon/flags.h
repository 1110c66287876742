// Flags: 8-byte counters in host memory that every open device can read and write. Streams order themselves by them, and the
// memory pool learns from them when a stream has passed the last use of something. All of this belongs to one environment's
// JavaScript thread, except for the counters themselves and for letting go of them.
#pragma once
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "../abi/kvasir_abi.h"

namespace kvasir::addon {

class AnyStream;
class FlagCell;

// How far a stream got: its work is numbered, and the cell receives a number once everything up to it is done. Numbers are
// written only on demand. Outlives its stream, whose end writes the last number.
struct Fence {
  std::shared_ptr<FlagCell> cell;
  AnyStream* stream = nullptr;     // null once disposed
  uint64_t written = 0;            // highest number whose write is enqueued; numbers count from the cell's value at the start
  bool owed = false;               // a write was asked for while the stream was recording
  std::atomic<uint64_t> known{0};  // highest number known from a callback
  bool passed(uint64_t number) const;
};

// Which streams used a thing, and the number of the last use on each.
class Uses {
 public:
  void touch(const std::shared_ptr<Fence>& fence, uint64_t number) {
    for (auto& use : uses_) {
      if (use.first == fence) {
        use.second = number;
        return;
      }
    }
    uses_.emplace_back(fence, number);
  }
  // Whether every stream is past its last use.
  bool passed() const;
  // Makes every stream that is not past its last use say so when it is.
  void request();

 private:
  std::vector<std::pair<std::shared_ptr<Fence>, uint64_t>> uses_;
};

class FlagSlabs;

// One counter. Its value only rises, over all its owners' lives: a new owner counts on from where it stands.
class FlagCell {
 public:
  FlagCell(FlagSlabs& slabs, uint64_t* address) : slabs_(slabs), address_(address) {}
  ~FlagCell();
  FlagCell(const FlagCell&) = delete;
  FlagCell& operator=(const FlagCell&) = delete;

  uint64_t* address() const { return address_; }
  uint64_t value() const { return std::atomic_ref(*address_).load(std::memory_order_acquire); }
  void store(uint64_t value) { std::atomic_ref(*address_).store(value, std::memory_order_release); }
  // The same, unless the value is higher already. From any thread.
  void raise(uint64_t value);
  // Lets every waiter pass, because the writer is lost; the cell is never used again.
  void poison();

  Uses uses;

 private:
  FlagSlabs& slabs_;
  uint64_t* address_;
  bool poisoned_ = false;
};

class FlagSlabs {
 public:
  FlagSlabs() = default;
  ~FlagSlabs();
  FlagSlabs(const FlagSlabs&) = delete;
  FlagSlabs& operator=(const FlagSlabs&) = delete;

  std::shared_ptr<FlagCell> create();
  // From any thread.
  void retire(uint64_t* address, Uses uses);

  // Makes every slab, present and future, known to the device. Slabs are registered once per backend, by its first open device.
  void attach(const kvasir_backend* backend, kvasir_device* device);
  // Called from the background thread too.
  void detach(const kvasir_backend* backend, kvasir_device* device);

 private:
  struct Attached {
    const kvasir_backend* backend;
    std::vector<kvasir_device*> devices;
  };
  void grow();

  using Retired = std::pair<uint64_t*, Uses>;
  std::vector<uint64_t*> free_;
  std::deque<Retired> waiting_;   // for the streams that used them
  std::mutex lock_;               // guards what follows
  std::vector<Retired> retired_;  // not looked at yet
  std::vector<void*> slabs_;
  std::vector<Attached> attached_;
};

}  // namespace kvasir::addon
