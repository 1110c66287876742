// Reads a part of a file into a tensor, in stream order and off the JavaScript thread. On the host the file is read straight into
// the tensor: the stream says that it got there, the background thread reads, the stream goes on. For another device the bytes
// pass through a ring of pinned chunks: the background thread fills them in order, the stream copies each as soon as it is full.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "device.h"
#include "stream.h"

namespace kvasir::addon {

// What went wrong, for the promise; written before the stream goes on.
struct LoadResult {
  const char* code = nullptr;  // null: all went well
  std::string sentence;
};

// Pinned chunks of a device. Uses of chunks are numbered in the order of the calls, and that is the order in which they are
// filled: a stream's progress depends on nothing that was enqueued later, so the order cannot lock up.
class StagingRing {
 public:
  static constexpr int kChunks = 8;
  static constexpr size_t kChunkBytes = size_t{4} << 20;

  explicit StagingRing(Device& device);
  ~StagingRing();
  StagingRing(const StagingRing&) = delete;
  StagingRing& operator=(const StagingRing&) = delete;

  char* chunk(uint64_t use) const { return memory_ + use % kChunks * kChunkBytes; }
  // Receives, counted from `filled_origin`, the number of uses whose chunk is full.
  FlagCell& filled() { return *filled_; }
  uint64_t filled_value(uint64_t uses) const { return filled_origin_ + uses; }
  uint64_t filled_uses() const { return filled_->value() - filled_origin_; }
  // Each chunk's cell receives the number of copies out of it that are done.
  FlagCell& drained(uint64_t use) { return *drained_[use % kChunks]; }
  uint64_t drained_value(uint64_t use) const { return drained_origin_[use % kChunks] + use / kChunks + 1; }
  // Whether the chunk of this use is free again.
  bool can_fill(uint64_t use) const;
  uint64_t next_use = 0;

 private:
  Device& device_;
  char* memory_ = nullptr;
  std::shared_ptr<FlagCell> filled_;
  uint64_t filled_origin_ = 0;
  std::array<std::shared_ptr<FlagCell>, kChunks> drained_;
  std::array<uint64_t, kChunks> drained_origin_{};
};

std::shared_ptr<LoadResult> load_file(Stream& stream, const std::shared_ptr<Storage>& target, char* to, size_t bytes,
                                      std::string path, uint64_t offset);

}  // namespace kvasir::addon
