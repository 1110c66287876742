#include "load_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "failure.h"

namespace kvasir::addon {

namespace {

constexpr size_t kReadStep = size_t{8} << 20;  // of one step of the job, so that other jobs get their turn

// An open file and the range to read from it; the first error ends all reading.
class FileRange {
 public:
  FileRange(std::string path, uint64_t offset, size_t bytes, std::shared_ptr<LoadResult> result)
      : path_(std::move(path)), offset_(offset), bytes_(bytes), result_(std::move(result)) {}
  ~FileRange() {
    if (file_ >= 0) close(file_);
  }
  FileRange(const FileRange&) = delete;
  FileRange& operator=(const FileRange&) = delete;

  void read(char* to, size_t from, size_t bytes) {
    if (result_->code == nullptr && file_ < 0) open_file();
    while (result_->code == nullptr && bytes > 0) {
      const ssize_t got = pread(file_, to, bytes, static_cast<off_t>(offset_ + from));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return fail(kInvalidArgument, path_ + " could not be read: " + std::strerror(errno) + ".");
      if (got == 0) return fail(kCorruptFile, path_ + " became shorter while it was read.");
      to += got;
      from += static_cast<size_t>(got);
      bytes -= static_cast<size_t>(got);
    }
  }

 private:
  void open_file() {
    file_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (file_ < 0) return fail(kInvalidArgument, path_ + " could not be opened: " + std::strerror(errno) + ".");
    struct stat status {};
    if (fstat(file_, &status) != 0 || !S_ISREG(status.st_mode)) return fail(kInvalidArgument, path_ + " is not a regular file.");
    const uint64_t size = static_cast<uint64_t>(status.st_size);
    if (offset_ <= size && bytes_ <= size - offset_) return;
    fail(kCorruptFile, path_ + " has " + std::to_string(size) + " bytes, but " + std::to_string(bytes_) +
                           " were to be read at offset " + std::to_string(offset_) + "; the file is truncated.");
  }

  void fail(const char* code, std::string sentence) {
    result_->sentence = std::move(sentence);
    result_->code = code;
  }

  std::string path_;
  uint64_t offset_;
  size_t bytes_;
  std::shared_ptr<LoadResult> result_;
  int file_ = -1;
};

class DirectLoad : public Job {
 public:
  DirectLoad(std::shared_ptr<Device> device, std::unique_ptr<FileRange> range, char* to, size_t bytes,
             std::shared_ptr<FlagCell> arrived, std::shared_ptr<FlagCell> filled)
      : device_(std::move(device)),
        range_(std::move(range)),
        to_(to),
        bytes_(bytes),
        arrived_(std::move(arrived)),
        filled_(std::move(filled)),
        arrived_value_(arrived_->value() + 1) {}

  Step step() override {
    if (arrived_->value() < arrived_value_) return Step::waiting;
    const size_t bytes = std::min(kReadStep, bytes_ - done_);
    range_->read(to_ + done_, done_, bytes);
    done_ += bytes;
    if (done_ < bytes_) return Step::progressed;
    filled_->store(filled_->value() + 1);
    return Step::done;
  }

 private:
  std::shared_ptr<Device> device_;
  std::unique_ptr<FileRange> range_;
  char* to_;
  size_t bytes_, done_ = 0;
  std::shared_ptr<FlagCell> arrived_, filled_;
  uint64_t arrived_value_;
};

class StagedLoad : public Job {
 public:
  StagedLoad(std::shared_ptr<Device> device, StagingRing& ring, std::unique_ptr<FileRange> range, size_t bytes,
             uint64_t first_use)
      : device_(std::move(device)),
        ring_(ring),
        range_(std::move(range)),
        bytes_(bytes),
        first_use_(first_use),
        use_(first_use) {}

  Step step() override {
    if (device_->lost()) return Step::done;
    if (ring_.filled_uses() != use_ || !ring_.can_fill(use_)) return Step::waiting;
    const size_t from = (use_ - first_use_) * StagingRing::kChunkBytes;
    range_->read(ring_.chunk(use_), from, std::min(StagingRing::kChunkBytes, bytes_ - from));
    ++use_;
    ring_.filled().store(ring_.filled_value(use_));
    return from + StagingRing::kChunkBytes >= bytes_ ? Step::done : Step::progressed;
  }

 private:
  std::shared_ptr<Device> device_;
  StagingRing& ring_;
  std::unique_ptr<FileRange> range_;
  size_t bytes_;
  uint64_t first_use_, use_;
};

}  // namespace

StagingRing::StagingRing(Device& device) : device_(device) {
  FlagSlabs& flags = device.environment().flags;
  filled_ = flags.create();
  filled_origin_ = filled_->value();
  for (int i = 0; i < kChunks; ++i) {
    drained_[i] = flags.create();
    drained_origin_[i] = drained_[i]->value();
  }
  kvasir_error err{};
  void* memory = nullptr;
  check(device.backend()->host_alloc(device.handle(), kChunks * kChunkBytes, &memory, &err), err);
  memory_ = static_cast<char*>(memory);
}

StagingRing::~StagingRing() {
  if (memory_ != nullptr) device_.backend()->host_free(device_.handle(), memory_);
}

bool StagingRing::can_fill(uint64_t use) const {
  return use < kChunks || drained_[use % kChunks]->value() >= drained_value(use - kChunks);
}

std::shared_ptr<LoadResult> load_file(Stream& stream, const std::shared_ptr<Storage>& target, char* to, size_t bytes,
                                      std::string path, uint64_t offset) {
  const std::shared_ptr<Device>& device = stream.device();
  Environment& environment = device->environment();
  auto result = std::make_shared<LoadResult>();
  auto range = std::make_unique<FileRange>(std::move(path), offset, bytes, result);
  if (device->on_host()) {
    const std::shared_ptr<FlagCell> arrived = environment.flags.create(), filled = environment.flags.create();
    auto job = std::make_unique<DirectLoad>(device, std::move(range), to, bytes, arrived, filled);
    const uint64_t filled_value = filled->value() + 1;
    stream.write_flag(*arrived, arrived->value() + 1);
    stream.wait_flag(*filled, filled_value);
    stream.touch(target);
    environment.background.submit(std::move(job));
    return result;
  }
  StagingRing& ring = device->staging();
  const uint64_t first_use = ring.next_use;
  environment.background.submit(std::make_unique<StagedLoad>(device, ring, std::move(range), bytes, first_use));
  ring.next_use += std::max<size_t>(1, (bytes + StagingRing::kChunkBytes - 1) / StagingRing::kChunkBytes);
  for (uint64_t use = first_use; use < ring.next_use; ++use) {
    const size_t from = (use - first_use) * StagingRing::kChunkBytes;
    stream.wait_flag(ring.filled(), ring.filled_value(use + 1));
    stream.copy_in(target, to + from, ring.chunk(use), std::min(StagingRing::kChunkBytes, bytes - from), false);
    stream.write_flag(ring.drained(use), ring.drained_value(use));
  }
  return result;
}

}  // namespace kvasir::addon
