#include "host_memory.h"

#include <algorithm>
#include <utility>

#include "completions.h"
#include "device.h"
#include "failure.h"

#ifdef __linux__
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace kvasir::addon {

namespace {

constexpr size_t kChunk = size_t{64} << 20;  // of one thread's turn; a multiple of huge pages
constexpr size_t kPage = 4096;
constexpr int kNice = 5;  // the JavaScript thread goes first

void yield_to_others() {
#ifdef __linux__
  setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kNice);
#endif
}

}  // namespace

// Waits for the threads and answers the promise. Jobs never block, so this one looks from time to time.
class HostMemory::PrepareJob : public Job {
 public:
  PrepareJob(std::shared_ptr<HostMemory> memory, std::unique_ptr<Completion> completion, int threads)
      : memory_(std::move(memory)),
        completion_(std::move(completion)),
        thread_([memory = memory_.get(), threads] { memory->fill_in(threads); }) {}

  Step step() override {
    if (memory_->preparing_.load()) return Step::waiting;
    thread_.join();
    if (memory_->failed_.load()) {
      completion_->status = KVASIR_OUT_OF_MEMORY;
      completion_->sentence = memory_->sentence_;
    }
    completion_->answer = !memory_->aborted_.load();
    Completions& completions = completion_->completions;
    completions.post(std::move(completion_));
    return Step::done;
  }

 private:
  std::shared_ptr<HostMemory> memory_;
  std::unique_ptr<Completion> completion_;
  std::thread thread_;
};

// Unlocks pages, and unmaps, once nothing uses the memory; both take seconds for tens of gigabytes, and get a thread.
class HostMemory::EndJob : public Job {
 public:
  EndJob(std::shared_ptr<HostMemory> memory, Uses uses, bool everything)
      : memory_(std::move(memory)), uses_(std::move(uses)), everything_(everything) {}

  Step step() override {
    if (thread_.joinable()) {
      if (!done_.load()) return Step::waiting;
      thread_.join();
      return Step::done;
    }
    if (memory_->preparing_.load() || !uses_.passed()) return Step::waiting;
    thread_ = std::thread([this] {
      memory_->unpin();
      if (memory_->holds_pinned_for_.exchange(false)) memory_->pinned_for_->let_close();
      if (everything_) memory_->unmap();
      done_.store(true);
    });
    return Step::progressed;
  }

 private:
  std::shared_ptr<HostMemory> memory_;
  Uses uses_;
  bool everything_;
  std::atomic<bool> done_{false};
  std::thread thread_;
};

HostMemory::HostMemory(std::shared_ptr<Device> cpu, size_t bytes, std::shared_ptr<Device> pinned_for, bool allow_unpinned)
    : cpu_(std::move(cpu)), pinned_for_(std::move(pinned_for)), bytes_(bytes), allow_unpinned_(allow_unpinned) {
  kvasir_error err{};
  if (bytes_ != 0) check(cpu_->backend()->alloc(cpu_->handle(), bytes_, &data_, &err), err);
  cpu_->hold_open();
  holds_cpu_.store(true);
  cpu_->add(this);
  if (pinned_for_ == nullptr) return;
  pinned_for_->hold_open();
  holds_pinned_for_.store(true);
  pinned_for_->add(this);
}

void HostMemory::prepare(std::unique_ptr<Completion> completion, int threads) {
  preparing_.store(true);
  cpu_->environment().background.submit(std::make_unique<PrepareJob>(shared_from_this(), std::move(completion), threads));
}

void HostMemory::fill_in(int threads) {
  yield_to_others();
  const size_t chunks = (bytes_ + kChunk - 1) / kChunk;
  std::atomic<size_t> next{0};
  std::vector<std::thread> workers;
  try {
    for (size_t i = 1; i < std::min<size_t>(static_cast<size_t>(threads), chunks); ++i)
      workers.emplace_back([this, &next] {
        yield_to_others();
        work(next);
      });
  } catch (const std::exception&) {
    // The system gives no more threads: those that came do it.
  }
  work(next);
  for (std::thread& worker : workers) worker.join();
  bool locked = pinned_for_ != nullptr && !aborted_.load();
  {
    const std::lock_guard guard(lock_);
    locked = locked && sentence_.empty();
    if (!sentence_.empty() && !allow_unpinned_) failed_.store(true);
  }
  if (locked)
    pinned_.store(true, std::memory_order_release);
  else if (pinned_for_ != nullptr)
    unpin();
  preparing_.store(false);
}

void HostMemory::work(std::atomic<size_t>& next) {
  const auto hopeless = [this] {
    if (aborted_.load()) return true;
    const std::lock_guard guard(lock_);
    return !sentence_.empty() && !allow_unpinned_;
  };
  while (!hopeless()) {
    const size_t at = next.fetch_add(1) * kChunk;
    if (at >= bytes_) return;
    const size_t bytes = std::min(kChunk, bytes_ - at);
    touch(data() + at, bytes);
    if (pinned_for_ != nullptr) lock_pages(data() + at, bytes);
    ready_.fetch_add(bytes);
  }
}

void HostMemory::touch(char* from, size_t bytes) {
#ifdef __linux__
#ifndef MADV_POPULATE_WRITE
  constexpr int MADV_POPULATE_WRITE = 23;
#endif
  if (madvise(from, bytes, MADV_POPULATE_WRITE) == 0) return;  // from Linux 5.14 on
#endif
  for (size_t at = 0; at < bytes; at += kPage) static_cast<volatile char*>(from)[at] = 0;
}

void HostMemory::lock_pages(char* from, size_t bytes) {
  {
    const std::lock_guard guard(lock_);
    if (!sentence_.empty()) return;
  }
  kvasir_error err{};
  const kvasir_status status = pinned_for_->backend()->host_register(pinned_for_->handle(), from, bytes, &err);
  const std::lock_guard guard(lock_);
  if (status == KVASIR_OK)
    registered_.push_back(from);
  else if (sentence_.empty())
    sentence_ = "Host memory could not be page-locked for " + pinned_for_->label() + " after " + std::to_string(ready_.load()) +
                " of " + std::to_string(bytes_) + " bytes: " + err.text;
}

void HostMemory::release(Uses uses) {
  if (std::exchange(released_, true)) return;
  abort();
  cpu_->remove(this);
  if (pinned_for_ != nullptr) pinned_for_->remove(this);
  end(std::move(uses), true);
}

void HostMemory::end_on(Device& device) {
  if (&device == cpu_.get()) return release(*uses_);
  abort();
  device.remove(this);
  end(*uses_, false);
}

void HostMemory::end(Uses uses, bool everything) {
  uses.request();
  cpu_->environment().background.submit(std::make_unique<EndJob>(shared_from_this(), std::move(uses), everything));
}

void HostMemory::unpin() {
  pinned_.store(false, std::memory_order_release);
  std::vector<char*> chunks;
  {
    const std::lock_guard guard(lock_);
    chunks.swap(registered_);
  }
  for (char* chunk : chunks) {
    const Standstills::Hold standstill = pinned_for_->environment().standstills.begin();
    pinned_for_->backend()->host_unregister(pinned_for_->handle(), chunk);
  }
}

void HostMemory::unmap() {
  if (data_ != nullptr) cpu_->backend()->free(cpu_->handle(), data_);
  data_ = nullptr;
  if (holds_cpu_.exchange(false)) cpu_->let_close();
}

}  // namespace kvasir::addon
