// A stream as the addon sees it: work is numbered, what it uses is noted, and a recording collects what its program must keep
// alive. JavaScript thread only.
#pragma once
#include <cstdint>
#include <memory>
#include <span>

#include "any_stream.h"
#include "device.h"
#include "memory.h"
#include "program.h"

namespace kvasir::addon {

// Calls back from a thread of the backend; see stream_callback in the ABI.
using Callback = void (*)(void* user, kvasir_status status, const char* text);

class Stream : public AnyStream {
 public:
  explicit Stream(std::shared_ptr<Device> device);
  ~Stream() override { dispose(); }

  bool recording() const { return recording_ != nullptr; }

  // Throws unless work can be enqueued.
  void check_usable();
  void check_not_recording(const char* what);

  // Notes that work enqueued from now on, up to the next call of `begin`, uses the storage.
  void touch(const std::shared_ptr<Storage>& storage);
  void touch(FlagCell& cell) { cell.uses.touch(fence_, number_); }
  void begin() { ++number_; }

  // Checked arguments in, work enqueued. `storages` are those of the tensors in args.
  void run(int op, const void* args, std::span<const std::shared_ptr<Storage>* const> storages);
  size_t workspace_bytes(int op, const void* args);
  void copy(const std::shared_ptr<Storage>& target, char* to, const std::shared_ptr<Storage>& source, const char* from,
            size_t bytes);
  void fill(const std::shared_ptr<Storage>& target, char* to, uint8_t value, size_t bytes);
  // settled: `from` holds its bytes already; otherwise it is read when the stream gets there.
  void copy_in(const std::shared_ptr<Storage>& target, char* to, const void* from, size_t bytes, bool settled);
  void copy_out(const std::shared_ptr<Storage>& source, void* to, const char* from, size_t bytes);
  void call_back(Callback function, void* user);
  void stamp(int slot);
  double elapsed_microseconds(int from, int to);
  void write_flag(FlagCell& cell, uint64_t value, const uint64_t* base = nullptr);
  void wait_flag(FlagCell& cell, uint64_t value, const uint64_t* base = nullptr);

  void record_event(const std::shared_ptr<Event>& event);
  void wait_event(const std::shared_ptr<Event>& event);
  void begin_recording();
  std::shared_ptr<Program> end_recording();
  void launch(const std::shared_ptr<Program>& program);

  // Put off while recording.
  void write_fence() override;
  void dispose() override;
  bool disposed() const { return handle_ == nullptr; }

 private:
  void* scratch(size_t bytes);

  const kvasir_backend* backend_;
  kvasir_stream* handle_ = nullptr;
  std::shared_ptr<Storage> scratch_;  // of work enqueued directly
  std::shared_ptr<Program> recording_;
  std::shared_ptr<Storage> recording_scratch_;  // a program's own, so that programs of one stream may run on several
};

}  // namespace kvasir::addon
