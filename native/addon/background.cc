#include "background.h"

#include <algorithm>
#include <chrono>
#include <iterator>

namespace kvasir::addon {

namespace {

// Between two looks at jobs that wait for a stream.
constexpr auto kShortestNap = std::chrono::microseconds(50), kLongestNap = std::chrono::microseconds(1000);

}  // namespace

void Background::submit(std::unique_ptr<Job> job) {
  const std::lock_guard lock(lock_);
  incoming_.push_back(std::move(job));
  if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
  wake_.notify_one();
}

void Background::finish() {
  {
    const std::lock_guard lock(lock_);
    stop_ = true;
    wake_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void Background::work() {
  std::vector<std::unique_ptr<Job>> jobs;
  auto nap = kShortestNap;
  while (true) {
    {
      std::unique_lock lock(lock_);
      const auto news = [this] { return stop_ || !incoming_.empty(); };
      if (jobs.empty()) wake_.wait(lock, news);
      if (jobs.empty() && incoming_.empty()) return;
      jobs.insert(jobs.end(), std::make_move_iterator(incoming_.begin()), std::make_move_iterator(incoming_.end()));
      incoming_.clear();
    }
    bool progressed = false;
    std::erase_if(jobs, [&](const std::unique_ptr<Job>& job) {
      const Step step = job->step();
      progressed = progressed || step != Step::waiting;
      return step == Step::done;
    });
    nap = progressed ? kShortestNap : std::min<std::chrono::microseconds>(nap * 2, kLongestNap);
    if (progressed || jobs.empty()) continue;
    std::unique_lock lock(lock_);
    wake_.wait_for(lock, nap, [this] { return !incoming_.empty(); });
  }
}

}  // namespace kvasir::addon
