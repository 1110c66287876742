// Makes sure that whoever waits for a stream hears from it. Host functions of a stream are skipped once its context has failed,
// so a thread looks for errors while callbacks are outstanding, and answers all of them when the device is lost. It also destroys
// programs whose last launch has passed.
//
// Two locks: `lock_` is taken by host functions, so that nobody calls CUDA under it; `streams_lock_` guards the list of streams
// while they are asked.
#pragma once
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <unordered_set>
#include <vector>

#include "stream.h"

namespace kvasir::cuda {

class Watcher {
 public:
  using Function = void (*)(void* user, kvasir_status, const char* text);

  explicit Watcher(kvasir_device& device);
  ~Watcher();  // all streams are gone by then
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;

  void add(kvasir_stream*);
  void remove(kvasir_stream*);
  // Changes whether a stream may be asked: a query would spoil a recording.
  template <class Change>
  auto while_unwatched(const Change& change) {
    const std::lock_guard guard(streams_lock_);
    return change();
  }

  // fn is called exactly once: when the stream gets here, or when the device is lost. On failure it is not called at all.
  kvasir_status call_back(cudaStream_t, Function fn, void* user, kvasir_error*);
  void retire(kvasir_program*);
  // Asks every stream for errors.
  void poll();

  // Held by a host function while it touches memory of the caller; false when the device is lost and the memory may be gone.
  bool begin_host_work();
  void end_host_work() { host_work_.fetch_sub(1); }

 private:
  struct Callback {
    Watcher* owner;
    Function fn;
    void* user;
  };
  static void CUDART_CB arrived(void* callback);
  bool claim(Callback*);
  void run();
  void sweep(bool all);
  void answer_all();

  kvasir_device& device_;
  std::mutex streams_lock_;
  std::unordered_set<kvasir_stream*> streams_;
  std::mutex lock_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::unordered_set<Callback*> pending_;
  std::vector<kvasir_program*> retired_;
  std::atomic<int> host_work_{0};
  std::thread thread_;
};

}  // namespace kvasir::cuda
