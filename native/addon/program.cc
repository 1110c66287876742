#include "program.h"

#include "device.h"
#include "stream.h"
#include "transfer_queue.h"

namespace kvasir::addon {

Event::Event(std::shared_ptr<Environment> environment)
    : environment_(std::move(environment)), cell_(environment_->flags.create()), latest_(cell_->value()) {
  environment_->events.insert(this);
}

Event::~Event() { environment_->events.erase(this); }

void Event::note_wait() const {
  if (const std::shared_ptr<TransferQueue> queue = queue_.lock()) queue->note_wait(step_);
}

void Event::release_if_recorded_on(const Device& device) {
  const bool by_device =
      recorded_by_ != nullptr && recorded_by_->stream != nullptr && recorded_by_->stream->device().get() == &device;
  if (by_device && !reached()) cell_->poison();
}

Program::EventUse& Program::use(const std::shared_ptr<Event>& event) {
  for (EventUse& use : events_) {
    if (use.event == event) return use;
  }
  events_.push_back({event, device_->environment().flags.create()});
  return events_.back();
}

void Program::finish(kvasir_program* handle) {
  handle_ = handle;
  device_->add(this);
}

void Program::dispose() {
  if (handle_ == nullptr) return;
  device_->remove(this);
  device_->backend()->program_destroy(handle_);
  handle_ = nullptr;
  storages_.clear();
  events_.clear();
}

}  // namespace kvasir::addon
