// Calls for which a driver waits until its whole device has come to rest, while it holds up the calls of all other threads: it
// releases memory, or loads a library's kernel. A device never comes to rest whose stream waits for a copy that a transfer thread
// has yet to hand over, for that thread is held up too. So such a call begins only when every copy that a stream waits for has
// been handed over, and no stream is given a wait for a flag until it has returned.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

namespace kvasir::addon {

class TransferQueue;

class Standstills {
 public:
  using Hold = std::unique_lock<std::mutex>;

  // Held during such a call. Waits until what streams wait for is handed over.
  Hold begin();
  // The same without waiting: owns nothing where it is not time yet.
  Hold try_begin();
  // Held while a stream is given a wait.
  Hold exclude() { return Hold(call_); }

  // JavaScript thread.
  void watch(const std::shared_ptr<TransferQueue>& queue);

 private:
  bool is_time();

  std::mutex call_;
  std::mutex lock_;
  std::vector<std::weak_ptr<TransferQueue>> queues_;  // guarded by lock_
};

}  // namespace kvasir::addon
