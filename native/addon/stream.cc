#include "stream.h"

#include "failure.h"

namespace kvasir::addon {

namespace {

constexpr int kStepsBetweenPolls = 64;

// Ends a stream once it ran dry, on the background thread.
class ReapJob : public Job {
 public:
  ReapJob(std::shared_ptr<Device> device, kvasir_stream* handle, std::shared_ptr<FlagCell> cell, uint64_t number)
      : device_(std::move(device)), handle_(handle), cell_(std::move(cell)), number_(number) {}

  Step step() override {
    const bool lost = ++steps_ % kStepsBetweenPolls == 0 ? device_->poll_lost() : device_->lost();
    if (cell_->value() < number_ && !lost) return Step::waiting;
    device_->backend()->stream_destroy(handle_);
    if (cell_->value() < number_) cell_->store(number_);
    device_->let_close();
    device_->environment().ending.fetch_sub(1);
    return Step::done;
  }

 private:
  std::shared_ptr<Device> device_;
  kvasir_stream* handle_;
  std::shared_ptr<FlagCell> cell_;
  uint64_t number_;
  int steps_ = 0;
};

}  // namespace

Stream::Stream(std::shared_ptr<Device> device) : AnyStream(std::move(device)), backend_(device_->backend()) {
  device_->check_usable();
  device_->environment().let_endings_catch_up();
  fence_ = std::make_shared<Fence>();
  fence_->cell = device_->environment().flags.create();
  kvasir_error err{};
  check(backend_->stream_create(device_->handle(), &handle_, &err), err);
  number_ = fence_->written = fence_->cell->value();
  fence_->stream = this;
  device_->add(this);
  device_->hold_open();
}

void Stream::check_usable() {
  if (disposed()) throw Failure(kDisposed, "The stream was disposed; create another.");
  device_->check_usable();
}

void Stream::check_not_recording(const char* what) {
  if (recording())
    throw Failure(kInvalidArgument, std::string(what) + " cannot be part of a program; do it before or after the recording.");
}

void Stream::touch(const std::shared_ptr<Storage>& storage) {
  if (recording()) {
    recording_->retain(storage);
    return;
  }
  storage->uses.touch(fence_, number_);
  if (storage->device() != device_) storage->device()->foreign.touch(fence_, number_);
}

void* Stream::scratch(size_t bytes) {
  std::shared_ptr<Storage>& storage = recording() ? recording_scratch_ : scratch_;
  if (storage == nullptr || storage->capacity() < bytes) {
    storage.reset();  // first, so that its memory can serve the larger one after a wait
    storage = std::make_shared<Storage>(device_, bytes);
  }
  touch(storage);
  return storage->data();
}

size_t Stream::workspace_bytes(int op, const void* args) {
  const auto query = backend_->ops[op].workspace;
  return query == nullptr ? 0 : query(device_->handle(), args);
}

void Stream::run(int op, const void* args, std::span<const std::shared_ptr<Storage>* const> storages) {
  begin();
  const size_t bytes = workspace_bytes(op, args);
  void* const workspace = bytes == 0 ? nullptr : scratch(bytes);
  for (const std::shared_ptr<Storage>* storage : storages) touch(*storage);
  kvasir_error err;
  err.text[0] = '\0';
  Standstills::Hold standstill;
  if (op == KVASIR_OP_LINEAR && device_->is_new_product(*static_cast<const kvasir_linear_args*>(args)))
    standstill = device_->environment().standstills.begin();  // a library may load a kernel for it
  check(backend_->ops[op].enqueue(handle_, args, workspace, bytes, &err), err);
  if (recording()) recording_->count_op();
}

void Stream::copy(const std::shared_ptr<Storage>& target, char* to, const std::shared_ptr<Storage>& source, const char* from,
                  size_t bytes) {
  begin();
  touch(target);
  touch(source);
  kvasir_error err{};
  if (target->device() == device_ && source->device() == device_) {
    check(backend_->copy(handle_, to, from, bytes, &err), err);
  } else if (source->device() != device_) {  // in a recording the backend wants pinned memory
    check(backend_->copy_in(handle_, to, from, bytes, 0, &err), err);
  } else {
    check(backend_->copy_out(handle_, to, from, bytes, &err), err);
  }
  if (recording()) recording_->count_op();
}

void Stream::fill(const std::shared_ptr<Storage>& target, char* to, uint8_t value, size_t bytes) {
  begin();
  touch(target);
  kvasir_error err{};
  check(backend_->fill(handle_, to, value, bytes, &err), err);
  if (recording()) recording_->count_op();
}

void Stream::copy_in(const std::shared_ptr<Storage>& target, char* to, const void* from, size_t bytes, bool settled) {
  begin();
  touch(target);
  kvasir_error err{};
  check(backend_->copy_in(handle_, to, from, bytes, settled, &err), err);
}

void Stream::copy_out(const std::shared_ptr<Storage>& source, void* to, const char* from, size_t bytes) {
  begin();
  touch(source);
  kvasir_error err{};
  check(backend_->copy_out(handle_, to, from, bytes, &err), err);
}

void Stream::call_back(Callback function, void* user) {
  begin();
  kvasir_error err{};
  check(backend_->stream_callback(handle_, function, user, &err), err);
}

void Stream::stamp(int slot) {
  begin();
  kvasir_error err{};
  check(backend_->stamp(handle_, slot, &err), err);
}

double Stream::elapsed_microseconds(int from, int to) {
  kvasir_error err{};
  double microseconds = 0;
  check(backend_->elapsed_us(handle_, from, to, &microseconds, &err), err);
  return microseconds;
}

void Stream::write_flag(FlagCell& cell, uint64_t value, const uint64_t* base) {
  begin();
  if (!recording()) touch(cell);
  kvasir_error err{};
  check(backend_->flag_write(handle_, cell.address(), value, base, &err), err);
}

void Stream::wait_flag(FlagCell& cell, uint64_t value, const uint64_t* base) {
  begin();
  const Standstills::Hold none = device_->environment().standstills.exclude();
  // A wait needs no note of its use: should the cell change hands, its value has passed what is waited for.
  kvasir_error err{};
  check(backend_->flag_wait(handle_, cell.address(), value, base, &err), err);
}

void Stream::record_event(const std::shared_ptr<Event>& event) {
  if (recording()) {
    Program::EventUse& use = recording_->use(event);
    write_flag(event->cell(), ++use.records, use.base->address());
    return;
  }
  // Two streams' records of one event must not overtake each other.
  if (event->recorded_by() != fence_ && !event->reached()) {
    event->note_wait();
    wait_flag(event->cell(), event->latest());
  }
  write_flag(event->cell(), event->latest() + 1);
  event->advance(1, fence_);
}

void Stream::wait_event(const std::shared_ptr<Event>& event) {
  if (recording()) {
    Program::EventUse& use = recording_->use(event);
    wait_flag(event->cell(), use.records, use.base->address());
  } else if (!event->reached()) {
    event->note_wait();
    wait_flag(event->cell(), event->latest());
  }
}

void Stream::begin_recording() {
  if (recording()) throw Failure(kInvalidArgument, "The stream is recording a program already; end that one first.");
  kvasir_error err{};
  check(backend_->record_begin(handle_, &err), err);
  recording_ = std::make_shared<Program>(device_);
}

std::shared_ptr<Program> Stream::end_recording() {
  if (!recording()) throw Failure(kInvalidArgument, "The stream is not recording a program; begin one first.");
  const std::shared_ptr<Program> program = std::move(recording_);
  recording_scratch_.reset();
  kvasir_error err{};
  kvasir_program* handle = nullptr;
  const kvasir_status status = backend_->record_end(handle_, &handle, &err);
  if (fence_->owed) write_fence();
  check(status, err);
  program->finish(handle);
  return program;
}

void Stream::launch(const std::shared_ptr<Program>& program) {
  check_not_recording("A launch");
  if (program->handle() == nullptr) throw Failure(kDisposed, "The program was disposed; record it again.");
  if (program->device() != device_)
    throw Failure(kInvalidArgument, "The program was recorded on another device than this stream's.");
  const std::shared_ptr<Fence>& before = program->launched_on;
  if (before != nullptr && before != fence_ && !before->passed(program->launched_number)) {
    if (before->written < program->launched_number && before->stream != nullptr) before->stream->write_fence();
    wait_flag(*before->cell, program->launched_number);
  }
  for (Program::EventUse& use : program->events()) {
    Event& event = *use.event;
    event.note_wait();
    if (use.records != 0 && event.recorded_by() != fence_ && !event.reached()) wait_flag(event.cell(), event.latest());
    write_flag(*use.base, event.latest());
    if (use.records != 0) event.advance(use.records, fence_);
  }
  begin();
  for (const std::shared_ptr<Storage>& storage : program->storages()) touch(storage);
  for (Program::EventUse& use : program->events()) touch(use.event->cell());
  for (Program::EventUse& use : program->events()) touch(*use.base);
  kvasir_error err{};
  const Standstills::Hold none = device_->environment().standstills.exclude();
  check(backend_->program_launch(program->handle(), handle_, &err), err);
  program->launched_on = fence_;
  program->launched_number = number_;
}

void Stream::write_fence() {
  if (recording()) {
    fence_->owed = true;
    return;
  }
  fence_->owed = false;
  kvasir_error err{};
  // A failure means that the device is lost; its memory is not handed out again.
  if (backend_->flag_write(handle_, fence_->cell->address(), number_, nullptr, &err) == KVASIR_OK)
    fence_->written = number_;
  else
    device_->poll_lost();
}

void Stream::dispose() {
  if (disposed()) return;
  if (recording()) {
    kvasir_error err{};
    kvasir_program* handle = nullptr;
    if (backend_->record_end(handle_, &handle, &err) == KVASIR_OK) backend_->program_destroy(handle);
    recording_.reset();
    recording_scratch_.reset();
  }
  write_fence();
  fence_->stream = nullptr;
  scratch_.reset();
  device_->remove(this);
  device_->environment().ending.fetch_add(1);
  device_->environment().background.submit(std::make_unique<ReapJob>(device_, handle_, fence_->cell, number_));
  handle_ = nullptr;
}

}  // namespace kvasir::addon
