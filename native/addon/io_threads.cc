// The engine without a ring: threads that wait for one transfer each.
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <mutex>

#include "io_engine.h"
#include "task_threads.h"

namespace kvasir::addon {

namespace {

class IoThreads : public IoEngine {
 public:
  explicit IoThreads(int file) : file_(file), threads_(kThreads) {}
  const char* name() const override { return "threads"; }

  void submit(IoRequest* const* requests, size_t count) override {
    for (size_t i = 0; i < count; ++i) {
      threads_.run([this, request = requests[i]] {
        request->result = transfer(*request);
        const std::lock_guard lock(lock_);
        done_.push_back(request);
        wake_.notify_one();
      });
    }
  }

  void collect(std::vector<IoRequest*>& done, Deadline deadline) override {
    std::unique_lock lock(lock_);
    wake_.wait_until(lock, deadline, [this] { return woken_ || !done_.empty(); });
    woken_ = false;
    done.insert(done.end(), done_.begin(), done_.end());
    done_.clear();
  }

  void wake() override {
    const std::lock_guard lock(lock_);
    woken_ = true;
    wake_.notify_one();
  }

 private:
  static constexpr size_t kThreads = 16;

  int64_t transfer(const IoRequest& request) const {
    while (true) {
      const off_t offset = static_cast<off_t>(request.offset);
      ssize_t moved = 0;
      switch (request.kind) {
        case IoKind::read: moved = preadv(file_, request.memory, request.pieces, offset); break;
        case IoKind::write: moved = pwritev(file_, request.memory, request.pieces, offset); break;
#ifdef __APPLE__
        case IoKind::sync: moved = fsync(file_); break;
#else
        case IoKind::sync: moved = fdatasync(file_); break;
#endif
      }
      if (moved >= 0) return moved;
      if (errno != EINTR) return -errno;
    }
  }

  const int file_;
  std::mutex lock_;
  std::condition_variable wake_;
  std::vector<IoRequest*> done_;  // both guarded by lock_
  bool woken_ = false;
  TaskThreads threads_;  // last, so that it ends first
};

}  // namespace

void IoRequest::advance(size_t moved) {
  offset += moved;
  for (int i = 0; i < pieces && moved > 0; ++i) {
    const size_t step = moved < memory[i].iov_len ? moved : memory[i].iov_len;
    memory[i].iov_base = static_cast<char*>(memory[i].iov_base) + step;
    memory[i].iov_len -= step;
    moved -= step;
  }
}

std::unique_ptr<IoEngine> make_io_threads(int file) { return std::make_unique<IoThreads>(file); }

}  // namespace kvasir::addon
