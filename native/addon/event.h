// An event: a counter that streams of any backend raise and wait for. Records of one event are ordered among each other, so that
// the counter only rises.
#pragma once
#include <cstdint>
#include <memory>

#include "flags.h"

namespace kvasir::addon {

class Device;
struct Environment;
class TransferQueue;

class Event {
 public:
  explicit Event(std::shared_ptr<Environment> environment);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  FlagCell& cell() { return *cell_; }
  const std::shared_ptr<FlagCell>& shared_cell() const { return cell_; }
  uint64_t latest() const { return latest_; }  // the counter's value when the latest record was reached
  bool reached() const { return cell_->value() >= latest_; }
  const std::shared_ptr<Fence>& recorded_by() const { return recorded_by_; }

  // Notes `records` further records made by a stream.
  void advance(uint64_t records, const std::shared_ptr<Fence>& fence) {
    latest_ += records;
    recorded_by_ = fence;
    queue_.reset();
  }
  // The latest record is this step of a transfer stream, which hands it over in its own time.
  void recorded_in(const std::shared_ptr<TransferQueue>& queue, uint64_t step) {
    queue_ = queue;
    step_ = step;
  }
  // A stream is about to be given a wait for the latest record.
  void note_wait() const;
  void release_if_recorded_on(const Device& device);

 private:
  std::shared_ptr<Environment> environment_;
  std::shared_ptr<FlagCell> cell_;
  uint64_t latest_;
  std::shared_ptr<Fence> recorded_by_;
  std::weak_ptr<TransferQueue> queue_;
  uint64_t step_ = 0;
};

}  // namespace kvasir::addon
