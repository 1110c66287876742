// A recorded program: the backend's handle, everything it touches, and the events it records or waits for. Inside a program an
// event's counts are relative to a base cell of the pair (program, event), which every launch sets in stream order.
#pragma once
#include <cstdint>
#include <memory>
#include <unordered_set>
#include <vector>

#include "event.h"
#include "memory.h"

namespace kvasir::addon {

class Program {
 public:
  explicit Program(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  ~Program() { dispose(); }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  struct EventUse {
    std::shared_ptr<Event> event;
    std::shared_ptr<FlagCell> base;
    uint64_t records = 0;
  };

  // While it is recorded.
  void retain(const std::shared_ptr<Storage>& storage) { storages_.insert(storage); }
  EventUse& use(const std::shared_ptr<Event>& event);
  void count_op() { ++length_; }
  void finish(kvasir_program* handle);

  const std::shared_ptr<Device>& device() const { return device_; }
  kvasir_program* handle() const { return handle_; }  // null: disposed
  size_t length() const { return length_; }
  const std::unordered_set<std::shared_ptr<Storage>>& storages() const { return storages_; }
  std::vector<EventUse>& events() { return events_; }

  // Safe while launched work is in flight: storages and cells know which streams are still to pass them.
  void dispose();

  // The latest launch: a launch on another stream waits for it, since both use the same memory.
  std::shared_ptr<Fence> launched_on;
  uint64_t launched_number = 0;

 private:
  std::shared_ptr<Device> device_;
  kvasir_program* handle_ = nullptr;
  size_t length_ = 0;
  std::unordered_set<std::shared_ptr<Storage>> storages_;
  std::vector<EventUse> events_;
};

}  // namespace kvasir::addon
