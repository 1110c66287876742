// The room of a slab file: what its index says when it is opened, and how it grows.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "failure.h"
#include "slab_file.h"

namespace kvasir::addon {

namespace {

constexpr uint64_t kGrowBytes = uint64_t{256} << 20;
constexpr auto kGrowPause = std::chrono::seconds(30);
constexpr size_t kReadAhead = 16;  // extents' indices that are read at once

// One extent's index on its way in. What a file lacks at its end reads as zeros.
struct ExtentRead {
  IoRequest request;
  AlignedBytes bytes = aligned_bytes(kExtentIndexBytes);
  uint64_t extent = 0;

  void begin(const SlabLayout& layout, uint64_t which) {
    extent = which;
    std::fill_n(bytes.get(), kExtentIndexBytes, uint8_t{0});
    request = IoRequest{};
    request.pieces = 1;
    request.memory[0] = {bytes.get(), kExtentIndexBytes};
    request.offset = layout.extent_at(which);
    request.owner = this;
  }
};

}  // namespace

void SlabFile::take_extent(uint64_t extent, const uint8_t* entries) {
  for (uint32_t i = 0; i < kExtentSlots; ++i) {
    const uint64_t slot = extent * kExtentSlots + i;
    if (slot >= room_) return;
    SlabEntry entry;
    const bool is_whole = decode_entry(entries + i * kEntryBytes, static_cast<uint32_t>(slot), header_.salt, entry);
    const bool is_fitting = entry.payload_bytes <= layout_.payload_bytes;
    if (is_whole && entry.empty()) continue;
    if (!is_whole || !is_fitting) {
      ++dropped_;
      entry = SlabEntry{};
    }
    index_->restore(static_cast<uint32_t>(slot), entry);
  }
}

void SlabFile::load_index() {
  struct stat status {};
  if (fstat(file_, &status) != 0) refuse("cannot be read", errno);
  const uint64_t most = layout_.file_bytes(index_->capacity());
  uint64_t bytes = static_cast<uint64_t>(status.st_size);
  if (bytes > most && ftruncate(file_, static_cast<off_t>(most)) == 0) bytes = most;
  room_ = static_cast<uint32_t>(std::min<uint64_t>(layout_.slots_in(bytes), index_->capacity()));
  const uint64_t extents = (uint64_t{room_} + kExtentSlots - 1) / kExtentSlots;
  std::vector<ExtentRead> reads(std::min<uint64_t>(extents, kReadAhead));
  uint64_t next = 0, open = 0;
  const auto begin = [&](ExtentRead& read) {
    read.begin(layout_, next++);
    IoRequest* request = &read.request;
    engine_->submit(&request, 1);
    ++open;
  };
  for (ExtentRead& read : reads) begin(read);
  std::vector<IoRequest*> done;
  int error = 0;
  for (; open > 0; done.clear()) {
    engine_->collect(done, IoEngine::Deadline::max());
    for (IoRequest* request : done) {
      auto& read = *static_cast<ExtentRead*>(request->owner);
      --open;
      const size_t moved = request->result > 0 ? static_cast<size_t>(request->result) : 0;
      const bool is_again = request->result == -EAGAIN || request->result == -EINTR;
      if (request->result < 0 && !is_again) error = static_cast<int>(-request->result);
      if (is_again || (moved > 0 && moved < request->bytes() && moved % kSector == 0)) {
        request->advance(moved);
        engine_->submit(&request, 1);
        ++open;
        continue;
      }
      if (error != 0) continue;
      take_extent(read.extent, read.bytes.get());
      if (next < extents) begin(read);
    }
  }
  if (error != 0) refuse("cannot be read", error);
  index_->settle();
}

int64_t SlabFile::allocate(uint64_t from, uint64_t to) {
  if (faults_ != nullptr && faults_->no_space()) return ENOSPC;
#ifdef __linux__
  int error = 0;
  while ((error = fallocate(file_, 0, static_cast<off_t>(from), static_cast<off_t>(to - from)) == 0 ? 0 : errno) == EINTR) {
  }
  if (error != EOPNOTSUPP) return error;
#endif
  return ftruncate(file_, static_cast<off_t>(to)) == 0 ? 0 : errno;
}

void SlabFile::grow() {
  if (room_ >= index_->capacity() || std::chrono::steady_clock::now() < grows_again_) return;
  // By a good step; where the file system has no room for that, by less and less.
  for (uint64_t slots = std::max<uint64_t>(1, kGrowBytes / layout_.slot_bytes()); slots > 0; slots /= 4) {
    const uint64_t to = std::min<uint64_t>(room_ + slots, index_->capacity());
    if (allocate(layout_.file_bytes(room_), layout_.file_bytes(to)) != 0) continue;
    room_ = static_cast<uint32_t>(to);
    return;
  }
  stop_growing();
}

void SlabFile::stop_growing() { grows_again_ = std::chrono::steady_clock::now() + kGrowPause; }

void SlabFile::sync() {
#ifdef __APPLE__
  fsync(file_);
#else
  fdatasync(file_);
#endif
}

}  // namespace kvasir::addon
