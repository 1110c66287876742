// The engine over io_uring, by its system calls alone. The driver fills the submission ring and reads the completion ring, which
// it shares with the kernel; while it waits it polls the ring's descriptor beside an eventfd that other threads write.
#include "io_engine.h"

#if defined(__linux__) && __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <ctime>

namespace kvasir::addon {

namespace {

class IoRing : public IoEngine {
 public:
  explicit IoRing(int file) : file_(file) {}
  ~IoRing() override {
    if (entries_ != nullptr) munmap(entries_, entries_bytes_);
    if (ring_memory_ != nullptr) munmap(ring_memory_, ring_bytes_);
    if (ring_ >= 0) close(ring_);
    if (wakes_ >= 0) close(wakes_);
  }

  // False with a reason where the kernel refuses.
  bool open(std::string& why);
  const char* name() const override { return "io_uring"; }
  void submit(IoRequest* const* requests, size_t count) override;
  void collect(std::vector<IoRequest*>& done, Deadline deadline) override;
  void wake() override {
    const uint64_t one = 1;
    // It can only fail where the counter is full, and then the driver is awake.
    if (write(wakes_, &one, sizeof one) < 0) return;
  }

 private:
  bool map(const io_uring_params& params);
  void fill(io_uring_sqe& entry, IoRequest& request) const;
  // Tells the kernel of the entries up to the tail.
  void enter();
  void reap(std::vector<IoRequest*>& done);
  template <class T>
  T* in_ring(uint32_t offset) const {
    return reinterpret_cast<T*>(static_cast<char*>(ring_memory_) + offset);
  }

  const int file_;
  int ring_ = -1, wakes_ = -1;
  void* ring_memory_ = nullptr;
  size_t ring_bytes_ = 0, entries_bytes_ = 0;
  io_uring_sqe* entries_ = nullptr;
  io_uring_cqe* completions_ = nullptr;
  uint32_t *submit_tail_ = nullptr, *submit_order_ = nullptr, *complete_head_ = nullptr, *complete_tail_ = nullptr;
  uint32_t submit_mask_ = 0, complete_mask_ = 0;
  uint32_t untold_ = 0;  // entries that the kernel has not taken yet
};

bool IoRing::open(std::string& why) {
  io_uring_params params{};
  ring_ = static_cast<int>(syscall(__NR_io_uring_setup, 2 * kDepth, &params));
  if (ring_ < 0) {
    why = std::string("io_uring_setup: ") + std::strerror(errno);
    return false;
  }
  // Kernel 5.4: one mapping for both rings. What is older has other gaps, too.
  if ((params.features & IORING_FEAT_SINGLE_MMAP) == 0 || (params.features & IORING_FEAT_NODROP) == 0) {
    why = "the kernel's io_uring is older than 5.5";
    return false;
  }
  if (!map(params)) {
    why = std::string("mapping io_uring's rings: ") + std::strerror(errno);
    return false;
  }
  wakes_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wakes_ < 0) why = std::string("eventfd: ") + std::strerror(errno);
  return wakes_ >= 0;
}

bool IoRing::map(const io_uring_params& params) {
  const auto map_at = [&](size_t bytes, off_t offset) -> void* {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring_, offset);
    return memory == MAP_FAILED ? nullptr : memory;
  };
  const size_t submit_bytes = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
  const size_t complete_bytes = params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe);
  ring_bytes_ = submit_bytes > complete_bytes ? submit_bytes : complete_bytes;
  entries_bytes_ = params.sq_entries * sizeof(io_uring_sqe);
  ring_memory_ = map_at(ring_bytes_, IORING_OFF_SQ_RING);
  if (ring_memory_ == nullptr) return false;
  entries_ = static_cast<io_uring_sqe*>(map_at(entries_bytes_, IORING_OFF_SQES));
  if (entries_ == nullptr) return false;
  submit_tail_ = in_ring<uint32_t>(params.sq_off.tail);
  submit_order_ = in_ring<uint32_t>(params.sq_off.array);
  submit_mask_ = *in_ring<uint32_t>(params.sq_off.ring_mask);
  complete_head_ = in_ring<uint32_t>(params.cq_off.head);
  complete_tail_ = in_ring<uint32_t>(params.cq_off.tail);
  complete_mask_ = *in_ring<uint32_t>(params.cq_off.ring_mask);
  completions_ = in_ring<io_uring_cqe>(params.cq_off.cqes);
  return true;
}

void IoRing::fill(io_uring_sqe& entry, IoRequest& request) const {
  std::memset(&entry, 0, sizeof entry);
  entry.fd = file_;
  entry.user_data = reinterpret_cast<uint64_t>(&request);
  if (request.kind == IoKind::sync) {
    entry.opcode = IORING_OP_FSYNC;
    entry.fsync_flags = IORING_FSYNC_DATASYNC;
    return;
  }
  entry.opcode = request.kind == IoKind::read ? IORING_OP_READV : IORING_OP_WRITEV;
  entry.addr = reinterpret_cast<uint64_t>(request.memory);
  entry.len = static_cast<uint32_t>(request.pieces);
  entry.off = request.offset;
}

void IoRing::submit(IoRequest* const* requests, size_t count) {
  uint32_t tail = *submit_tail_;  // written by this thread alone
  for (size_t i = 0; i < count; ++i, ++tail) {
    const uint32_t place = tail & submit_mask_;
    fill(entries_[place], *requests[i]);
    submit_order_[place] = place;
  }
  std::atomic_ref(*submit_tail_).store(tail, std::memory_order_release);
  untold_ += static_cast<uint32_t>(count);
  enter();
}

void IoRing::enter() {
  while (untold_ > 0) {
    const long taken = syscall(__NR_io_uring_enter, ring_, untold_, 0, 0, nullptr, 0);
    if (taken > 0) untold_ -= static_cast<uint32_t>(taken);
    // Short of memory for now: collect() tries again after what is in flight.
    if (taken == 0 || (taken < 0 && errno != EINTR)) return;
  }
}

void IoRing::reap(std::vector<IoRequest*>& done) {
  uint32_t head = *complete_head_;
  const uint32_t tail = std::atomic_ref(*complete_tail_).load(std::memory_order_acquire);
  for (; head != tail; ++head) {
    const io_uring_cqe& completion = completions_[head & complete_mask_];
    auto* request = reinterpret_cast<IoRequest*>(completion.user_data);
    request->result = completion.res;
    done.push_back(request);
  }
  std::atomic_ref(*complete_head_).store(head, std::memory_order_release);
}

void IoRing::collect(std::vector<IoRequest*>& done, Deadline deadline) {
  const size_t before = done.size();
  reap(done);
  if (done.size() > before) return;
  enter();
  timespec rest{};
  const bool is_endless = deadline == Deadline::max();
  if (!is_endless) {
    const auto left = std::max(deadline - std::chrono::steady_clock::now(), std::chrono::steady_clock::duration::zero());
    const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(left).count();
    rest = {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
  }
  // Entries that the kernel would not take are offered again soon.
  if (untold_ > 0 && (is_endless || rest.tv_sec > 0)) rest = {0, 1'000'000};
  pollfd ends[] = {{ring_, POLLIN, 0}, {wakes_, POLLIN, 0}};
  ppoll(ends, 2, is_endless && untold_ == 0 ? nullptr : &rest, nullptr);
  uint64_t wakes = 0;
  if ((ends[1].revents & POLLIN) != 0 && read(wakes_, &wakes, sizeof wakes) < 0) wakes = 0;  // taken by an earlier read
  reap(done);
}

}  // namespace

std::unique_ptr<IoEngine> make_io_ring(int file, std::string& why) {
  auto ring = std::make_unique<IoRing>(file);
  return ring->open(why) ? std::move(ring) : nullptr;
}

}  // namespace kvasir::addon

#else

namespace kvasir::addon {

std::unique_ptr<IoEngine> make_io_ring(int, std::string& why) {
  why = "this build has no io_uring";
  return nullptr;
}

}  // namespace kvasir::addon
#endif
