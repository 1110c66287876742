// A stream that copies pages, waits for events and records them. Its work is numbered and noted like that of any stream, on the
// JavaScript thread and in the order of the program; a thread of its own hands it to the backend (transfer_queue.h).
#pragma once
#include <memory>

#include "any_stream.h"
#include "device.h"
#include "event.h"
#include "memory.h"
#include "transfer_queue.h"

namespace kvasir::addon {

class TransferStream : public AnyStream {
 public:
  explicit TransferStream(std::shared_ptr<Device> device);
  ~TransferStream() override { dispose(); }

  // Throws unless work can be enqueued.
  void check_usable();

  // The completion answers true once the pages are there, false where the transfer was cancelled first.
  void copy_pages(const std::shared_ptr<Storage>& to, const std::shared_ptr<Storage>& from,
                  std::shared_ptr<PageTransfer> transfer, std::unique_ptr<Completion> completion);
  // Posts the completion once everything enqueued so far has passed.
  void notify(std::unique_ptr<Completion> completion);
  void record_event(const std::shared_ptr<Event>& event);
  void wait_event(const std::shared_ptr<Event>& event);
  void stamp(int slot);
  // Both stamps must have passed: notify first.
  double elapsed_microseconds(int from, int to);

  void write_fence() override;
  void dispose() override;
  bool disposed() const { return queue_ == nullptr; }

 private:
  void touch(const std::shared_ptr<Storage>& storage);
  void push_fence(TransferStep step);

  std::shared_ptr<TransferQueue> queue_;
};

}  // namespace kvasir::addon
