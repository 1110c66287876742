#include "standstills.h"

#include <chrono>
#include <thread>

#include "transfer_queue.h"

namespace kvasir::addon {

namespace {
constexpr auto kPause = std::chrono::microseconds(20);
}

Standstills::Hold Standstills::begin() {
  while (true) {
    Hold hold(call_);
    if (is_time()) return hold;
    hold.unlock();
    std::this_thread::sleep_for(kPause);
  }
}

Standstills::Hold Standstills::try_begin() {
  Hold hold(call_, std::try_to_lock);
  if (hold.owns_lock() && !is_time()) hold.unlock();
  return hold;
}

void Standstills::watch(const std::shared_ptr<TransferQueue>& queue) {
  const std::lock_guard guard(lock_);
  std::erase_if(queues_, [](const std::weak_ptr<TransferQueue>& old) { return old.expired(); });
  queues_.push_back(queue);
}

bool Standstills::is_time() {
  const std::lock_guard guard(lock_);
  for (const std::weak_ptr<TransferQueue>& entry : queues_) {
    const std::shared_ptr<TransferQueue> queue = entry.lock();
    if (queue != nullptr && queue->is_waited_for()) return false;
  }
  return true;
}

}  // namespace kvasir::addon
