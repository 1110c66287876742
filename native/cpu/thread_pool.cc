// A loop is published by opening it; workers that are awake enter it, the caller works too, then closes it and waits for those
// inside. A worker that wakes late finds the loop closed and is not waited for, so a loop costs no more than its slowest
// participant.
#include "thread_pool.h"

#include <atomic>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "host.h"

namespace kvasir::cpu {

namespace {

// Loops of one model step follow each other within some microseconds; spinning that long saves a wake-up per loop. A pause takes
// about 60 ns on current x86 cores.
constexpr int kIdleSpins = 600;
constexpr int kJoinSpins = 1000;

struct Scratch {
  void* data = nullptr;
  size_t bytes = 0;
  ~Scratch() { std::free(data); }
};

}  // namespace

struct ThreadPool::State {
  int threads = 1;
  std::vector<std::thread> workers;
  std::vector<Scratch> scratch;
  std::mutex turn;  // one loop at a time

  // The loop; written only while it is closed and nobody is inside.
  int64_t count = 0;
  Thunk thunk = nullptr;
  const void* body = nullptr;
  std::exception_ptr failure;
  std::mutex failure_lock;

  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) std::atomic<uint32_t> epoch{0};  // rises when a loop opens or the pool stops
  std::atomic<int32_t> sleepers{0};
  std::atomic<bool> open{false}, stop{false};
  alignas(64) std::atomic<int32_t> inside{0};

  void work(int thread) {
    for (int64_t index; (index = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      try {
        thunk(body, index, thread);
      } catch (...) {
        next.store(count, std::memory_order_relaxed);
        const std::lock_guard lock(failure_lock);
        if (!failure) failure = std::current_exception();
      }
    }
  }

  void worker(int thread) {
    become_compute_thread("kvasir-pool");
    uint32_t seen = 0;
    while (true) {
      int spins = 0;
      while (epoch.load(std::memory_order_acquire) == seen) {
        if (++spins < kIdleSpins) {
          cpu_pause();
          continue;
        }
        sleepers.fetch_add(1);
        epoch.wait(seen);
        sleepers.fetch_sub(1);
      }
      seen = epoch.load(std::memory_order_acquire);
      if (stop.load()) return;
      // Enter first, look second: the caller closes first and counts second, so one of the two always notices the other.
      inside.fetch_add(1);
      if (open.load()) work(thread);
      if (inside.fetch_sub(1) == 1 && !open.load()) inside.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  state_->threads = threads > 0 ? threads : usable_cores();
  state_->scratch.resize(static_cast<size_t>(state_->threads));
  try {
    for (int i = 1; i < state_->threads; ++i) state_->workers.emplace_back([s = state_.get(), i] { s->worker(i); });
  } catch (const std::exception&) {
    // The system gives no more threads: the pool is as large as it came to be.
    state_->threads = static_cast<int>(state_->workers.size()) + 1;
  }
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true);
  state_->epoch.fetch_add(1);
  state_->epoch.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::size() const { return state_->threads; }

void* ThreadPool::scratch(int thread, size_t bytes) {
  Scratch& scratch = state_->scratch[static_cast<size_t>(thread)];
  if (scratch.bytes >= bytes) return scratch.data;
  const size_t rounded = (bytes + 4095) & ~size_t{4095};
  std::free(scratch.data);
  scratch.bytes = 0;
  scratch.data = std::aligned_alloc(64, rounded);
  if (scratch.data == nullptr) throw std::bad_alloc();
  scratch.bytes = rounded;
  return scratch.data;
}

void ThreadPool::run(int64_t count, Thunk thunk, const void* body) {
  if (count <= 0) return;
  State& s = *state_;
  const std::lock_guard turn(s.turn);
  if (count == 1 || s.workers.empty()) {
    for (int64_t index = 0; index < count; ++index) thunk(body, index, 0);
    return;
  }
  s.count = count;
  s.thunk = thunk;
  s.body = body;
  s.next.store(0, std::memory_order_relaxed);
  s.open.store(true);
  s.epoch.fetch_add(1);
  if (s.sleepers.load() > 0) s.epoch.notify_all();
  s.work(0);
  s.open.store(false);
  int spins = 0;
  for (int32_t left; (left = s.inside.load()) != 0;) {
    if (++spins < kJoinSpins)
      cpu_pause();
    else
      s.inside.wait(left);
  }
  if (s.failure) std::rethrow_exception(std::exchange(s.failure, nullptr));
}

}  // namespace kvasir::cpu
