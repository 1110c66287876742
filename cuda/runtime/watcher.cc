#include "watcher.h"

#include <chrono>

#include "mailbox.h"

namespace kvasir::cuda {

namespace {
constexpr auto kPause = std::chrono::milliseconds(10);  // how long an error may stay unseen
}  // namespace

Watcher::Watcher(kvasir_device& device) : device_(device), thread_([this] { run(); }) {}

Watcher::~Watcher() {
  {
    const std::lock_guard guard(lock_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
  answer_all();
  sweep(true);
}

void Watcher::add(kvasir_stream* stream) {
  const std::lock_guard guard(streams_lock_);
  streams_.insert(stream);
}

void Watcher::remove(kvasir_stream* stream) {
  const std::lock_guard guard(streams_lock_);
  streams_.erase(stream);
}

kvasir_status Watcher::call_back(cudaStream_t stream, Function fn, void* user, kvasir_error* err) {
  auto* callback = new Callback{this, fn, user};
  {
    const std::lock_guard guard(lock_);
    pending_.insert(callback);
  }
  const cudaError_t result = cudaLaunchHostFunc(stream, arrived, callback);
  if (result != cudaSuccess) {
    // The watching thread may have answered it already, and then that is the answer.
    if (!claim(callback)) return KVASIR_OK;
    delete callback;
    return device_.check(result, "a stream callback", err);
  }
  wake_.notify_all();
  return KVASIR_OK;
}

bool Watcher::claim(Callback* callback) {
  const std::lock_guard guard(lock_);
  return pending_.erase(callback) == 1;
}

void Watcher::arrived(void* raw) {
  auto* callback = static_cast<Callback*>(raw);
  if (!callback->owner->claim(callback)) return;
  callback->fn(callback->user, KVASIR_OK, "");
  delete callback;
}

void Watcher::retire(kvasir_program* program) {
  {
    const std::lock_guard guard(lock_);
    retired_.push_back(program);
  }
  wake_.notify_all();
}

bool Watcher::begin_host_work() {
  host_work_.fetch_add(1);
  if (!device_.lost()) return true;
  host_work_.fetch_sub(1);
  return false;
}

void Watcher::poll() {
  const std::lock_guard guard(streams_lock_);
  for (kvasir_stream* stream : streams_) {
    if (stream->recording()) continue;
    const cudaError_t result = cudaStreamQuery(stream->handle());
    if (result == cudaErrorNotReady)
      cudaGetLastError();
    else
      device_.check(result, "earlier work", nullptr);
    if (device_.lost()) return;
  }
}

void Watcher::run() {
  cudaSetDevice(device_.ordinal());
  std::unique_lock guard(lock_);
  while (!stop_) {
    wake_.wait(guard, [this] { return stop_ || !pending_.empty() || !retired_.empty(); });
    wake_.wait_for(guard, kPause, [this] { return stop_; });
    if (stop_) return;
    guard.unlock();
    sweep(false);
    if (!device_.lost()) poll();
    if (device_.lost()) answer_all();
    guard.lock();
  }
}

void Watcher::sweep(bool all) {
  std::vector<kvasir_program*> programs;
  {
    const std::lock_guard guard(lock_);
    programs.swap(retired_);
  }
  for (kvasir_program* program : programs) {
    if (!all && !device_.lost() && cudaEventQuery(program->launched) == cudaErrorNotReady) {
      cudaGetLastError();
      const std::lock_guard guard(lock_);
      retired_.push_back(program);
      continue;
    }
    device_.check(cudaGraphExecDestroy(program->graph), "the end of a program", nullptr);
    device_.check(cudaEventDestroy(program->launched), "the end of a program", nullptr);
    program->mailbox.give_back(device_.mailboxes());
    delete program;
  }
}

void Watcher::answer_all() {
  // The device is marked lost: no new host work starts, and what runs is a copy.
  while (host_work_.load() != 0) std::this_thread::yield();
  std::unordered_set<Callback*> callbacks;
  {
    const std::lock_guard guard(lock_);
    callbacks.swap(pending_);
  }
  // Not freed: the driver still knows them, and may hand one to `arrived` late.
  kvasir_error err{};
  const kvasir_status status = device_.lost_status(&err);
  for (Callback* callback : callbacks) callback->fn(callback->user, status, err.text);
}

}  // namespace kvasir::cuda
