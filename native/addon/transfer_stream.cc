#include "transfer_stream.h"

#include "failure.h"

namespace kvasir::addon {

namespace {

// Ends the backend's stream once the queue has come to its end, on the background thread.
class ReapTransfers : public Job {
 public:
  ReapTransfers(std::shared_ptr<Device> device, std::shared_ptr<TransferQueue> queue, std::shared_ptr<FlagCell> fence,
                uint64_t number)
      : device_(std::move(device)), queue_(std::move(queue)), fence_(std::move(fence)), number_(number) {}

  Step step() override {
    if (!queue_->ended()) return Step::waiting;
    device_->backend()->stream_destroy(queue_->handle());
    queue_.reset();  // with it goes the flag of its slices, which the stream no longer writes
    fence_->raise(number_);
    device_->let_close();
    device_->environment().ending.fetch_sub(1);
    return Step::done;
  }

 private:
  std::shared_ptr<Device> device_;
  std::shared_ptr<TransferQueue> queue_;
  std::shared_ptr<FlagCell> fence_;
  uint64_t number_;
};

}  // namespace

TransferStream::TransferStream(std::shared_ptr<Device> device) : AnyStream(std::move(device)) {
  device_->check_usable();
  device_->environment().let_endings_catch_up();
  fence_ = std::make_shared<Fence>();
  fence_->cell = device_->environment().flags.create();
  const std::shared_ptr<FlagCell> progress = device_->environment().flags.create();
  kvasir_error err{};
  kvasir_stream* handle = nullptr;
  check(device_->backend()->stream_create(device_->handle(), &handle, &err), err);
  number_ = fence_->written = fence_->cell->value();
  try {
    queue_ = std::make_shared<TransferQueue>(*device_, handle, fence_->cell, progress);
  } catch (const std::exception& error) {
    device_->backend()->stream_destroy(handle);
    throw Failure(kInternal, std::string("The thread of a transfer stream could not be started: ") + error.what() + ".");
  }
  device_->environment().standstills.watch(queue_);
  fence_->stream = this;
  device_->add(this);
  device_->hold_open();
}

void TransferStream::check_usable() {
  if (disposed()) throw Failure(kDisposed, "The transfer stream was disposed; create another.");
  device_->check_usable();
}

void TransferStream::touch(const std::shared_ptr<Storage>& storage) {
  storage->uses.touch(fence_, number_);
  if (storage->device() != device_) storage->device()->foreign.touch(fence_, number_);
}

// A step that ends with the fence's write of the latest number.
void TransferStream::push_fence(TransferStep step) {
  step.value = number_;
  queue_->push(std::move(step));
  fence_->written = number_;
}

void TransferStream::copy_pages(const std::shared_ptr<Storage>& to, const std::shared_ptr<Storage>& from,
                                std::shared_ptr<PageTransfer> transfer, std::unique_ptr<Completion> completion) {
  ++number_;
  touch(to);
  touch(from);
  completion->answer = true;
  push_fence({.kind = TransferStep::Kind::copy, .transfer = std::move(transfer), .completion = std::move(completion)});
}

void TransferStream::notify(std::unique_ptr<Completion> completion) {
  ++number_;
  push_fence({.kind = TransferStep::Kind::fence, .completion = std::move(completion)});
}

void TransferStream::record_event(const std::shared_ptr<Event>& event) {
  // Two streams' records of one event must not overtake each other.
  if (event->recorded_by() != fence_) wait_event(event);
  ++number_;
  event->cell().uses.touch(fence_, number_);
  queue_->push({.kind = TransferStep::Kind::write, .cell = event->shared_cell(), .value = event->latest() + 1});
  event->advance(1, fence_);
  event->recorded_in(queue_, queue_->pushed());
}

void TransferStream::wait_event(const std::shared_ptr<Event>& event) {
  if (event->reached()) return;
  event->note_wait();
  queue_->push({.kind = TransferStep::Kind::wait, .cell = event->shared_cell(), .value = event->latest()});
}

void TransferStream::stamp(int slot) { queue_->push({.kind = TransferStep::Kind::stamp, .value = static_cast<uint64_t>(slot)}); }

double TransferStream::elapsed_microseconds(int from, int to) {
  kvasir_error err{};
  double microseconds = 0;
  check(device_->backend()->elapsed_us(queue_->handle(), from, to, &microseconds, &err), err);
  return microseconds;
}

void TransferStream::write_fence() { push_fence({.kind = TransferStep::Kind::fence}); }

void TransferStream::dispose() {
  if (disposed()) return;
  ++number_;
  write_fence();
  queue_->push({.kind = TransferStep::Kind::end});
  fence_->stream = nullptr;
  device_->remove(this);
  device_->environment().ending.fetch_add(1);
  device_->environment().background.submit(std::make_unique<ReapTransfers>(device_, queue_, fence_->cell, number_));
  queue_.reset();
}

}  // namespace kvasir::addon
