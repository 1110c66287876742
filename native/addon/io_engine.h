// Reads and writes of one file without a thread that waits for each: through io_uring, or through threads that call preadv and
// pwritev where the kernel has no ring or refuses it. One thread, the driver, submits and collects; any thread may wake it.
#pragma once
#include <sys/uio.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace kvasir::addon {

enum class IoKind { read, write, sync };

// One transfer between a range of the file and up to two pieces of memory; must stay where it is until it is collected.
struct IoRequest {
  IoKind kind = IoKind::read;
  int pieces = 0;
  iovec memory[2] = {};
  uint64_t offset = 0;
  int64_t result = 0;  // bytes moved, or -errno
  int retries = 0;
  void* owner = nullptr;

  size_t bytes() const { return (pieces > 0 ? memory[0].iov_len : 0) + (pieces > 1 ? memory[1].iov_len : 0); }
  // Drops the first `moved` bytes, which were transferred.
  void advance(size_t moved);
};

class IoEngine {
 public:
  static constexpr int kDepth = 32;  // requests in flight at most
  using Deadline = std::chrono::steady_clock::time_point;

  IoEngine() = default;
  virtual ~IoEngine() = default;
  IoEngine(const IoEngine&) = delete;
  IoEngine& operator=(const IoEngine&) = delete;

  virtual const char* name() const = 0;
  // Driver only; at most kDepth in flight.
  virtual void submit(IoRequest* const* requests, size_t count) = 0;
  // Appends what is done. With nothing done it waits for that, for wake() or for the deadline. Driver only.
  virtual void collect(std::vector<IoRequest*>& done, Deadline deadline) = 0;
  // From any thread: the collect that runs, or else the next one, does not wait.
  virtual void wake() = 0;
};

// nullptr where the kernel has no io_uring for us; `why` then says so.
std::unique_ptr<IoEngine> make_io_ring(int file, std::string& why);
std::unique_ptr<IoEngine> make_io_threads(int file);

}  // namespace kvasir::addon
