#include "stream.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <new>

#include "host.h"
#include "page_copy.h"

using namespace kvasir::cpu;

namespace {

constexpr int kIdleSpins = 300;                                     // about 20 us: a caller that enqueues in a burst wakes nobody
constexpr int kFlagSpins = 800;                                     // about 50 us of waiting for a flag before sleeping
constexpr int64_t kShortestSleep = 2'000, kLongestSleep = 200'000;  // ns
constexpr size_t kParallelCopy = size_t{1} << 20;                   // bytes of one piece of a copy shared between threads

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

uint64_t target_of(uint64_t value, const uint64_t* base) {
  return value + (base == nullptr ? 0 : std::atomic_ref(*const_cast<uint64_t*>(base)).load(std::memory_order_acquire));
}

// The writer may be another device, which can wake nobody, so this polls: busily at first, then with sleeps of an eighth of the
// time waited so far.
void wait_for_flag(const FlagWaitCommand& wait) {
  const std::atomic_ref flag(*const_cast<uint64_t*>(wait.flag));
  const uint64_t target = target_of(wait.value, wait.base);
  for (int spins = 0; spins < kFlagSpins; ++spins) {
    if (flag.load(std::memory_order_acquire) >= target) return;
    cpu_pause();
  }
  const int64_t started = now_ns();
  while (flag.load(std::memory_order_acquire) < target) {
    const int64_t sleep = std::clamp((now_ns() - started) / 8, kShortestSleep, kLongestSleep);
    std::this_thread::sleep_for(std::chrono::nanoseconds(sleep));
  }
}

// Runs piece(offset, bytes) over [0, bytes), in parallel when that pays.
template <class Piece>
void in_pieces(ThreadPool& pool, size_t bytes, const Piece& piece) {
  if (bytes <= kParallelCopy) return piece(size_t{0}, bytes);
  pool.parallel_for(static_cast<int64_t>((bytes + kParallelCopy - 1) / kParallelCopy), [&](int64_t index, int) {
    const size_t offset = static_cast<size_t>(index) * kParallelCopy;
    piece(offset, std::min(kParallelCopy, bytes - offset));
  });
}

void run_op(kvasir_device& device, const OpCommand& op) {
  if (device.lost()) return;
  try {
    Context context{device.pool, device.isa, op.workspace};
    op.run(context, CommandList::tail(op));
  } catch (const std::bad_alloc&) {
    device.lose(std::string(op.name) + " ran out of host memory for its scratch; the CPU device must be opened anew.");
  } catch (const std::exception& error) {
    device.lose(std::string(op.name) + " failed on the CPU device: " + error.what());
  } catch (...) {
    device.lose(std::string(op.name) + " failed on the CPU device with an unknown exception.");
  }
}

}  // namespace

kvasir_stream::kvasir_stream(kvasir_device& device) : device_(device), worker_([this] { work(); }) {}

kvasir_stream::~kvasir_stream() {
  stop_.store(true);
  wake();
  worker_.join();
}

// Either the pusher sees `sleeping_`, or the worker sees the risen signal: both sides store before they load.
void kvasir_stream::wake() {
  signal_.fetch_add(1);
  if (sleeping_.load()) signal_.notify_one();
}

bool kvasir_stream::take() {
  running_.clear();
  const std::lock_guard lock(lock_);
  running_.swap(pending_);
  return !running_.empty();
}

void kvasir_stream::work() {
  become_compute_thread("kvasir-stream");
  while (true) {
    const uint32_t seen = signal_.load();
    if (take()) {
      run(running_);
      continue;
    }
    if (stop_.load()) return;
    int spins = 0;
    while (signal_.load(std::memory_order_relaxed) == seen && ++spins < kIdleSpins) cpu_pause();
    if (signal_.load() != seen) continue;
    sleeping_.store(true);
    signal_.wait(seen);
    sleeping_.store(false);
  }
}

void kvasir_stream::run(const CommandList& commands) {
  commands.each([this](CommandKind kind, const void* command) {
    switch (kind) {
      case CommandKind::op: run_op(device_, *static_cast<const OpCommand*>(command)); break;
      case CommandKind::copy: {
        const auto& copy = *static_cast<const CopyCommand*>(command);
        if (device_.lost()) break;
        in_pieces(device_.pool, copy.bytes, [&](size_t offset, size_t bytes) {
          std::memmove(static_cast<char*>(copy.target) + offset, static_cast<const char*>(copy.source) + offset, bytes);
        });
        break;
      }
      case CommandKind::copy_pages:
        if (!device_.lost()) copy_pages(device_.pool, *static_cast<const CopyPagesCommand*>(command));
        break;
      case CommandKind::fill: {
        const auto& fill = *static_cast<const FillCommand*>(command);
        if (device_.lost()) break;
        in_pieces(device_.pool, fill.bytes,
                  [&](size_t offset, size_t bytes) { std::memset(static_cast<char*>(fill.target) + offset, fill.value, bytes); });
        break;
      }
      // Flags go on after an error, so that nobody waits for ever for a device that is lost.
      case CommandKind::flag_write: {
        const auto& write = *static_cast<const FlagWriteCommand*>(command);
        std::atomic_ref(*write.flag).store(target_of(write.value, write.base), std::memory_order_release);
        break;
      }
      case CommandKind::flag_wait: wait_for_flag(*static_cast<const FlagWaitCommand*>(command)); break;
      case CommandKind::callback: {
        const auto& callback = *static_cast<const CallbackCommand*>(command);
        const bool lost = device_.lost();
        callback.function(callback.user, lost ? KVASIR_DEVICE_LOST : KVASIR_OK, lost ? device_.lost_text().c_str() : "");
        break;
      }
      case CommandKind::launch: {
        kvasir_program* program = static_cast<const LaunchCommand*>(command)->program;
        run(program->commands);
        program->release();
        break;
      }
      case CommandKind::stamp:
        stamps_[static_cast<size_t>(static_cast<const StampCommand*>(command)->slot)].store(now_ns(), std::memory_order_release);
        break;
    }
  });
}
