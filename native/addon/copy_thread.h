// One native thread that copies memory of tensors beside all streams, in order. Storages know of it as of a stream, by a fence,
// so that their memory stays until it has passed.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>

#include "flags.h"
#include "task_threads.h"

namespace kvasir::addon {

class Storage;

class CopyThread {
 public:
  explicit CopyThread(FlagSlabs& flags) : flags_(flags) {}

  // JavaScript thread. `copy` runs on the thread and uses the storage's memory.
  void run(Storage& storage, std::function<void()> copy);

 private:
  FlagSlabs& flags_;
  std::shared_ptr<Fence> fence_;  // of what was handed in; made by the first
  uint64_t number_ = 0;
  TaskThreads threads_{1};
};

}  // namespace kvasir::addon
