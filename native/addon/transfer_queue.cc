#include "transfer_queue.h"

#include <algorithm>
#include <chrono>

#include "../core/page_runs.h"
#include "failure.h"

#ifdef __linux__
#include <pthread.h>
#include <sys/prctl.h>
#endif

namespace kvasir::addon {

namespace {

constexpr int64_t kShortestNap = 10'000, kLongestNap = 1'000'000;  // ns
constexpr int kNapsBetweenPolls = 64;

// What a slice holds at most, and what may be in flight of all.
struct Window {
  size_t slice_copies, copies;
};
constexpr size_t kSliceBytes = size_t{64} << 20, kBytes = size_t{256} << 20;

Window window_of(int32_t path) {
  switch (path) {
    case KVASIR_COPY_BATCH: return {4096, 8192};
    case KVASIR_COPY_KERNEL: return {16384, 65536};
    default: return {128, 512};  // a stream takes about 1000
  }
}

// Ends the slice that starts at `first`; counts the copies that it takes.
int32_t end_of_slice(const kvasir_page_copy& copy, int32_t first, size_t most_copies, size_t& copies) {
  const auto most = static_cast<int32_t>(std::clamp<size_t>(kSliceBytes / copy.bytes, 1, INT32_MAX));
  const int32_t limit = copy.count - first < most ? copy.count : first + most;
  int32_t end = first;
  for (copies = 0; end < limit && copies < most_copies; ++copies) end += run_length(copy, end, limit - end);
  return end;
}

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void name_thread() {
#ifdef __linux__
  pthread_setname_np(pthread_self(), "kvasir-transfer");
  prctl(PR_SET_TIMERSLACK, 1);
#endif
}

void fail(Completion* completion, kvasir_status status, const char* sentence) {
  if (completion == nullptr || completion->status != KVASIR_OK) return;
  completion->status = status;
  completion->sentence = sentence;
}

}  // namespace

TransferQueue::TransferQueue(Device& device, kvasir_stream* handle, std::shared_ptr<FlagCell> fence,
                             std::shared_ptr<FlagCell> progress)
    : device_(device),
      backend_(device.backend()),
      handle_(handle),
      fence_(std::move(fence)),
      progress_(std::move(progress)),
      slices_(progress_->value()),
      thread_([this] { work(); }) {}

TransferQueue::~TransferQueue() {
  if (thread_.joinable()) thread_.join();
}

void TransferQueue::push(TransferStep step) {
  const std::lock_guard lock(lock_);
  steps_.push_back(std::move(step));
  ++pushed_;
  wake_.notify_one();
}

void TransferQueue::work() {
  name_thread();
  TransferStep step;
  while (true) {
    settle();
    if (!take(step)) {
      nap(true);
      continue;
    }
    const bool is_end = step.kind == TransferStep::Kind::end;
    if (!is_end) run(step);
    step = {};
    handed_over_.fetch_add(1, std::memory_order_release);
    if (is_end) break;
  }
  for (settle(); !in_flight_.empty(); settle()) nap(false);
  ended_.store(true, std::memory_order_release);
}

bool TransferQueue::take(TransferStep& step) {
  const std::lock_guard lock(lock_);
  if (steps_.empty()) return false;
  step = std::move(steps_.front());
  steps_.pop_front();
  return true;
}

void TransferQueue::run(TransferStep& step) {
  using Kind = TransferStep::Kind;
  kvasir_error err{};
  switch (step.kind) {
    case Kind::copy:
      if (step.transfer->begin())
        submit(*step.transfer, step.completion.get());
      else
        step.completion->answer = false;
      write(fence_, step.value, {.completion = std::move(step.completion)});
      break;
    case Kind::fence: write(fence_, step.value, {.completion = std::move(step.completion)}); break;
    case Kind::write: write(step.cell, step.value, {}); break;
    case Kind::wait: {
      const Standstills::Hold none = device_.environment().standstills.exclude();
      const kvasir_status status = backend_->flag_wait(handle_, step.cell->address(), step.value, nullptr, &err);
      if (status != KVASIR_OK) device_.lose(err.text);  // what follows would run too early
      break;
    }
    case Kind::stamp: backend_->stamp(handle_, static_cast<int32_t>(step.value), &err); break;
    case Kind::end: break;
  }
}

void TransferQueue::submit(PageTransfer& transfer, Completion* completion) {
  const kvasir_page_copy& whole = transfer.copy;
  const Window window = window_of(whole.path);
  for (int32_t first = 0; first < whole.count;) {
    size_t copies = 0;
    const int32_t end = end_of_slice(whole, first, window.slice_copies, copies);
    const size_t bytes = whole.bytes * static_cast<size_t>(end - first);
    settle();
    while (!in_flight_.empty() && (copies_in_flight_ + copies > window.copies || bytes_in_flight_ + bytes > kBytes)) {
      nap(false);
      settle();
    }
    kvasir_page_copy slice = whole;
    slice.to_slots += first;
    slice.from_slots += first;
    slice.count = end - first;
    kvasir_error err{};
    const kvasir_status status = device_.lost() ? KVASIR_DEVICE_LOST : backend_->copy_pages(handle_, &slice, &err);
    if (status != KVASIR_OK) {
      if (status == KVASIR_DEVICE_LOST) device_.lose(err.text);
      return fail(completion, status, err.text);
    }
    write(progress_, ++slices_, {.copies = copies, .bytes = bytes});
    first = end;
  }
}

void TransferQueue::write(const std::shared_ptr<FlagCell>& cell, uint64_t value, InFlight entry) {
  kvasir_error err{};
  entry.cell = cell;
  entry.value = value;
  const kvasir_status status = backend_->flag_write(handle_, cell->address(), value, nullptr, &err);
  if (status != KVASIR_OK) {
    fail(entry.completion.get(), status, err.text);
    // Without its flag the stream's order is lost, and so is the device for all that follows.
    device_.lose(err.text);
  }
  copies_in_flight_ += entry.copies;
  bytes_in_flight_ += entry.bytes;
  if (in_flight_.empty()) idle_since_ = now_ns();
  in_flight_.push_back(std::move(entry));
}

void TransferQueue::settle() {
  const bool lost = device_.lost();
  while (!in_flight_.empty() && (lost || in_flight_.front().cell->value() >= in_flight_.front().value)) {
    answer(in_flight_.front());
    in_flight_.pop_front();
    idle_since_ = now_ns();
    naps_ = 0;
  }
}

void TransferQueue::answer(InFlight& entry) {
  copies_in_flight_ -= entry.copies;
  bytes_in_flight_ -= entry.bytes;
  const bool passed = entry.cell->value() >= entry.value;
  if (!passed) {
    // The device is lost. Those that wait for an event go on; the fence waits until the backend's stream is gone.
    fail(entry.completion.get(), KVASIR_DEVICE_LOST, device_.lost_sentence().c_str());
    if (entry.cell != fence_) entry.cell->raise(entry.value);
  }
  if (entry.completion == nullptr) return;
  Completions& completions = entry.completion->completions;
  completions.post(std::move(entry.completion));
}

void TransferQueue::nap(bool for_steps) {
  std::unique_lock lock(lock_);
  const auto has_steps = [&] { return for_steps && !steps_.empty(); };
  if (in_flight_.empty()) return wake_.wait(lock, has_steps);
  // Flags are raised by devices, which wake nobody: the longer nothing has moved, the less often they are looked at.
  const int64_t nap = std::clamp((now_ns() - idle_since_) / 8, kShortestNap, kLongestNap);
  wake_.wait_for(lock, std::chrono::nanoseconds(nap), has_steps);
  lock.unlock();
  if (++naps_ % kNapsBetweenPolls == 0) poll();
}

void TransferQueue::poll() {
  kvasir_error err{};
  if (!device_.lost() && backend_->stream_status(handle_, &err) == KVASIR_DEVICE_LOST) device_.lose(err.text);
}

}  // namespace kvasir::addon
