// The work of a transfer stream, and the thread that hands it to the backend. A stream of the driver takes about a thousand
// copies before a call blocks, and a call for thousands of pages takes its time: neither is for the JavaScript thread. Each
// transfer stream has a thread of its own: should one wait in the driver, for a flag that another one's work will raise, the
// other goes on.
//
// The thread bounds what is in flight, by flags that the backend raises behind every slice of a transfer, and tells promises when
// theirs has passed. It owns all calls on the backend's stream, from its creation to the end of this queue.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "completions.h"
#include "device.h"

namespace kvasir::addon {

// A copy of pages that may still be called off.
struct PageTransfer {
  kvasir_page_copy copy{};     // its lists point into `slots`
  std::vector<int32_t> slots;  // destinations, then sources

  // Whether the copy will not happen. JavaScript thread.
  bool cancel() {
    State expected = State::queued;
    return state_.compare_exchange_strong(expected, State::cancelled) || expected == State::cancelled;
  }
  // Whether the copy is to happen. Submission thread.
  bool begin() {
    State expected = State::queued;
    return state_.compare_exchange_strong(expected, State::begun);
  }

 private:
  enum class State { queued, begun, cancelled };
  std::atomic<State> state_{State::queued};
};

struct TransferStep {
  enum class Kind { copy, wait, write, fence, stamp, end };
  Kind kind = Kind::fence;
  std::shared_ptr<FlagCell> cell = {};  // wait, write
  uint64_t value = 0;                   // of the flag; of a stamp its slot
  std::shared_ptr<PageTransfer> transfer = {};
  std::unique_ptr<Completion> completion = {};
};

class TransferQueue {
 public:
  // `fence` and `progress` are cells that nobody else writes; the fence starts at its present value.
  TransferQueue(Device& device, kvasir_stream* handle, std::shared_ptr<FlagCell> fence, std::shared_ptr<FlagCell> progress);
  ~TransferQueue();  // after the step `end`
  TransferQueue(const TransferQueue&) = delete;
  TransferQueue& operator=(const TransferQueue&) = delete;

  void push(TransferStep step);
  // Steps so far. JavaScript thread.
  uint64_t pushed() const { return pushed_; }
  // Some stream waits for a step. JavaScript thread.
  void note_wait(uint64_t step) {
    if (step > waited_.load(std::memory_order_relaxed)) waited_.store(step, std::memory_order_release);
  }
  // Whether some stream waits for what is yet to be handed over. From any thread.
  bool is_waited_for() const { return handed_over_.load(std::memory_order_acquire) < waited_.load(std::memory_order_acquire); }
  // Whether the step `end` is done: nothing is in flight, and the thread calls the backend no more.
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  kvasir_stream* handle() const { return handle_; }

 private:
  // Something that the backend will pass: a slice of a copy, a flag, the end of a copy.
  struct InFlight {
    std::shared_ptr<FlagCell> cell = {};
    uint64_t value = 0;
    size_t copies = 0, bytes = 0;
    std::unique_ptr<Completion> completion = {};
  };

  void work();
  bool take(TransferStep& step);
  void run(TransferStep& step);
  // Looks whether the device is lost, on this stream alone: others may be busy in a call that waits for this one.
  void poll();
  void submit(PageTransfer& transfer, Completion* completion);
  void write(const std::shared_ptr<FlagCell>& cell, uint64_t value, InFlight entry);
  // Answers what has passed, or all if the device is lost.
  void settle();
  void answer(InFlight& entry);
  // Waits a little for what is in flight, or, with nothing in flight, for steps.
  void nap(bool for_steps);

  Device& device_;  // kept open by the stream, which is counted until it is reaped
  const kvasir_backend* backend_;
  kvasir_stream* const handle_;
  std::shared_ptr<FlagCell> fence_, progress_;
  uint64_t slices_;  // the value that the latest slice gives to `progress_`

  std::mutex lock_;
  std::condition_variable wake_;
  std::deque<TransferStep> steps_;  // guarded by lock_
  uint64_t pushed_ = 0;
  std::atomic<uint64_t> waited_{0}, handed_over_{0};  // numbers of steps
  std::atomic<bool> ended_{false};

  // The thread's own.
  std::deque<InFlight> in_flight_;
  size_t copies_in_flight_ = 0, bytes_in_flight_ = 0;
  int64_t idle_since_ = 0;  // ns, of the latest progress
  int naps_ = 0;
  std::thread thread_;
};

}  // namespace kvasir::addon
