// Device memory: a caching pool over a backend's alloc and free, and the storages that tensors share. A block goes back to the
// pool at once when its storage dies, and into use again only after every stream that used it has passed. JavaScript thread only.
#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>

#include "flags.h"

namespace kvasir::addon {

class Device;
class HostMemory;

struct Block {
  void* data = nullptr;
  size_t bytes = 0;  // as allocated, rounded up
};

class Pool {
 public:
  explicit Pool(Device& device) : device_(device) {}

  // A block of at least `bytes`. Throws ERR_KVASIR_OUT_OF_MEMORY after having waited for disposed memory and returned what lay
  // idle.
  Block take(size_t bytes);
  void give_back(Block block, Uses uses);
  // Returns idle blocks to the backend.
  void trim();
  // Returns everything; nothing may be in flight. Called once, by the thread that closes the device.
  void clear();
  size_t reserved_bytes() const { return reserved_; }

 private:
  // Moves blocks whose streams have passed to the free list; looks at all of them, or only at the oldest.
  void collect(bool all);
  bool find_free(size_t bytes, Block& out);
  kvasir_status allocate(size_t bytes, Block& out, kvasir_error& err);
  void wait_for_pending();

  Device& device_;
  std::multimap<size_t, void*> free_;           // by size
  std::deque<std::pair<Block, Uses>> pending_;  // disposed, possibly still in use by a stream
  std::unordered_map<void*, size_t> blocks_;    // everything held from the backend
  size_t reserved_ = 0;
};

// The memory that a tensor and its views share.
class Storage {
 public:
  Storage(std::shared_ptr<Device> device, size_t bytes);
  // Over host memory of a CPU device, which it gives back in the end.
  Storage(std::shared_ptr<Device> device, std::shared_ptr<HostMemory> memory);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  const std::shared_ptr<Device>& device() const { return device_; }
  char* data() const { return static_cast<char*>(block_.data); }
  size_t bytes() const { return bytes_; }
  size_t capacity() const { return block_.bytes; }
  HostMemory* host_memory() const { return host_memory_.get(); }  // null: of the pool
  Uses uses;

 private:
  std::shared_ptr<Device> device_;
  size_t bytes_;
  Block block_;
  std::shared_ptr<HostMemory> host_memory_;
};

}  // namespace kvasir::addon
