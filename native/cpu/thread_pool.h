// The device's worker threads. One parallel loop runs at a time; the calling thread takes part, so a pool of size 1 has no
// workers.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace kvasir::cpu {

class ThreadPool {
 public:
  // threads <= 0: one per core that this process may run on (sched_getaffinity, cgroup quota).
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;  // threads that take part in a loop, the caller included

  // Calls body(index, thread) for every index in [0, count), handed out one by one in rising order; returns when all are done.
  // `thread` in [0, size()) names the executing thread, for scratch. Exceptions in body reach the caller (the first one).
  template <class Body>
  void parallel_for(int64_t count, const Body& body) {
    run(
        count, [](const void* b, int64_t index, int thread) { (*static_cast<const Body*>(b))(index, thread); }, &body);
  }

  // Scratch of one thread, 64-byte aligned, kept between loops; grows, never shrinks. Call it from inside `body` with its thread
  // index.
  void* scratch(int thread, size_t bytes);

 private:
  using Thunk = void (*)(const void* body, int64_t index, int thread);
  void run(int64_t count, Thunk thunk, const void* body);
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvasir::cpu
