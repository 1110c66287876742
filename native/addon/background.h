// One native thread per environment for what must not block JavaScript: reading files, gathering strided data, ending streams,
// closing devices. Jobs are stepped in turn and never block on a stream, so that no job can keep another from the work it waits
// for.
#pragma once
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace kvasir::addon {

enum class Step { waiting, progressed, done };

class Job {
 public:
  virtual ~Job() = default;
  virtual Step step() = 0;
};

class Background {
 public:
  Background() = default;
  ~Background() { finish(); }
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  // From any thread.
  void submit(std::unique_ptr<Job> job);
  // Runs what is left, then ends the thread.
  void finish();

 private:
  void work();

  std::mutex lock_;
  std::condition_variable wake_;
  std::vector<std::unique_ptr<Job>> incoming_;  // guarded by lock_
  bool stop_ = false;                           // guarded by lock_
  std::thread thread_;
};

}  // namespace kvasir::addon
