// A few threads that run tasks in the order in which they were handed in. Threads start as tasks come, and end with the object,
// which runs first what is left.
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace kvasir::addon {

class TaskThreads {
 public:
  explicit TaskThreads(size_t most) : most_(most) {}
  ~TaskThreads() {
    {
      const std::lock_guard lock(lock_);
      stop_ = true;
      wake_.notify_all();
    }
    for (std::thread& thread : threads_) thread.join();
  }
  TaskThreads(const TaskThreads&) = delete;
  TaskThreads& operator=(const TaskThreads&) = delete;

  void run(std::function<void()> task) {
    const std::lock_guard lock(lock_);
    tasks_.push_back(std::move(task));
    if (idle_ < tasks_.size() && threads_.size() < most_) start();
    wake_.notify_one();
  }

 private:
  // Where the system has no thread left, those that there are do the work.
  void start() {
    try {
      threads_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
      if (threads_.empty()) throw;
    }
  }

  void work() {
    std::unique_lock lock(lock_);
    while (true) {
      ++idle_;
      wake_.wait(lock, [this] { return stop_ || !tasks_.empty(); });
      --idle_;
      if (tasks_.empty()) return;
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      lock.lock();
    }
  }

  const size_t most_;
  std::mutex lock_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;  // these five guarded by lock_
  std::vector<std::thread> threads_;
  size_t idle_ = 0;
  bool stop_ = false;
};

}  // namespace kvasir::addon
