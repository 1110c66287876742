#include "slab_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "failure.h"

namespace kvasir::addon {

namespace {

constexpr uint32_t kMostSlots = 1u << 27;
// A process that was killed holds its lock until the kernel has ended its transfers.
constexpr int kLockTries = 80;
constexpr auto kLockNap = std::chrono::milliseconds(25);

uint32_t fresh_salt(uint32_t old) {
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  const auto salt = static_cast<uint32_t>((static_cast<uint64_t>(now) * 0x9e3779b97f4a7c15) >> 32);
  return salt == old ? salt + 1 : salt;
}

// All of it at this offset, or as much as there is. -1 with errno.
template <class Transfer>
int64_t whole(const Transfer& transfer, size_t bytes) {
  size_t done = 0;
  while (done < bytes) {
    const ssize_t moved = transfer(done, bytes - done);
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0) return -1;
    if (moved == 0) break;
    done += static_cast<size_t>(moved);
  }
  return static_cast<int64_t>(done);
}

}  // namespace

void FreeAligned::operator()(uint8_t* memory) const { std::free(memory); }

AlignedBytes aligned_bytes(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, kSector, round_up(bytes, kSector)) != 0) throw std::bad_alloc();
  std::memset(memory, 0, bytes);
  return AlignedBytes(static_cast<uint8_t*>(memory));
}

SlabFile::~SlabFile() { close(); }

void SlabFile::close() {
  engine_.reset();
  faults_ = nullptr;
  if (file_ >= 0) ::close(file_);
  file_ = -1;
}

void SlabFile::refuse(const std::string& what, int error) const {
  throw Failure(kInvalidArgument, "path is \"" + options_.path + "\", which " + what +
                                      (error == 0 ? "" : std::string(": ") + std::strerror(error)) + ".");
}

void SlabFile::open() {
  layout_.payload_bytes = round_up(options_.page_bytes, kSector);
  const uint64_t least = layout_.file_bytes(kLeastSlots);
  if (options_.max_bytes < least) {
    throw Failure(kInvalidArgument, "maxBytes is " + std::to_string(options_.max_bytes) + ", expected at least " +
                                        std::to_string(least) + ", the room of " + std::to_string(kLeastSlots) + " pages of " +
                                        std::to_string(options_.page_bytes) + " bytes with their headers.");
  }
  if (options_.identity.size() > kMostIdentityBytes)
    throw Failure(kInvalidArgument, "identity takes " + std::to_string(options_.identity.size()) +
                                        " bytes as text, expected at most " + std::to_string(kMostIdentityBytes) + ".");
  open_file();
  lock_file();
  if (!adopt_header()) return;
  choose_engine();
  const uint64_t slots = std::min<uint64_t>(layout_.slots_in(options_.max_bytes), kMostSlots);
  index_ = std::make_unique<SlabIndex>(static_cast<uint32_t>(slots));
  load_index();
}

void SlabFile::open_file() {
  constexpr int kFlags = O_RDWR | O_CREAT | O_CLOEXEC;
#ifdef O_DIRECT
  if (!options_.refuses_direct) file_ = ::open(options_.path.c_str(), kFlags | O_DIRECT, 0600);
  is_direct_ = file_ >= 0;
  if (file_ < 0 && !options_.refuses_direct && errno != EINVAL && errno != EOPNOTSUPP)
    refuse("cannot be opened for writing", errno);
#endif
  if (file_ < 0) file_ = ::open(options_.path.c_str(), kFlags, 0600);
  if (file_ < 0) refuse("cannot be opened for writing", errno);
  struct stat status {};
  if (fstat(file_, &status) != 0 || !S_ISREG(status.st_mode)) refuse("is not a regular file", 0);
}

void SlabFile::lock_file() {
  for (int i = 0; flock(file_, LOCK_EX | LOCK_NB) != 0; ++i) {
    if (errno != EWOULDBLOCK && errno != EINTR) refuse("cannot be locked", errno);
    if (i == kLockTries)
      throw Failure(
          kInvalidArgument,
          "path is \"" + options_.path + "\", which another cache has open, here or in another process; give each its own file.");
    std::this_thread::sleep_for(kLockNap);
  }
}

bool SlabFile::adopt_header() {
  const AlignedBytes bytes = aligned_bytes(kSlabHeaderBytes);
  const auto read = [&](size_t at, size_t left) { return pread(file_, bytes.get() + at, left, static_cast<off_t>(at)); };
  int64_t got = whole(read, kSlabHeaderBytes);
#ifdef O_DIRECT
  if (got < 0 && errno == EINVAL && is_direct_) {  // a file system that takes the flag, and refuses what follows
    is_direct_ = false;
    if (fcntl(file_, F_SETFL, 0) == 0) got = whole(read, kSlabHeaderBytes);
  }
#endif
  if (got < 0) refuse("cannot be read", errno);
  const HeaderState state = decode_header(bytes.get(), static_cast<size_t>(got), header_);
  const std::string file = "\"" + options_.path + "\" ";
  if (state == HeaderState::foreign)
    throw Failure(kCorruptFile, file + "is not a slab file of kvasir; give another path, or remove it.");
  if (state == HeaderState::absent && lseek(file_, 0, SEEK_END) > static_cast<off_t>(kSlabHeaderBytes) && !options_.resets)
    throw Failure(kCorruptFile,
                  file + "begins with zeros where a slab file has its header; remove it, or open it with onMismatch \"reset\".");
  if ((state == HeaderState::damaged || state == HeaderState::other_version) && !options_.resets) {
    const std::string what = state == HeaderState::damaged ? "has a damaged header" : "was written by another version of kvasir";
    throw Failure(kCorruptFile, file + what + "; remove it, or open it with onMismatch \"reset\".");
  }
  const bool is_same = state == HeaderState::good && header_.fingerprint == options_.fingerprint &&
                       header_.identity == options_.identity && header_.payload_bytes == layout_.payload_bytes;
  if (is_same) return true;
  if (state == HeaderState::good && !options_.resets) {
    found_identity_ = header_.identity;
    return false;
  }
  write_header();
  return true;
}

void SlabFile::write_header() {
  header_ = {fresh_salt(header_.salt), options_.fingerprint, layout_.payload_bytes, options_.identity};
  const AlignedBytes bytes = aligned_bytes(kSlabHeaderBytes);
  encode_header(header_, bytes.get());
  if (ftruncate(file_, 0) != 0) refuse("cannot be emptied", errno);
  const auto write = [&](size_t at, size_t left) { return pwrite(file_, bytes.get() + at, left, static_cast<off_t>(at)); };
  const int64_t wrote = whole(write, kSlabHeaderBytes);
  if (wrote != static_cast<int64_t>(kSlabHeaderBytes)) refuse("cannot be written", wrote < 0 ? errno : ENOSPC);
}

void SlabFile::choose_engine() {
  const char* wanted = std::getenv("KVASIR_IO");
  const bool forced = wanted != nullptr && std::strcmp(wanted, "threads") == 0;
  if (options_.engine == EngineChoice::threads || (forced && options_.engine == EngineChoice::any))
    why_not_ring_ = forced ? "KVASIR_IO=threads" : "threads were asked for";
  else
    engine_ = make_io_ring(file_, why_not_ring_);
  if (engine_ == nullptr && options_.engine == EngineChoice::ring)
    throw Failure(kUnsupported, "engine is \"io_uring\", which is not available here: " + why_not_ring_ + "; \"threads\" is.");
  if (engine_ == nullptr) engine_ = make_io_threads(file_);
  engine_name_ = engine_->name();
  if (!options_.has_faults) return;
  auto faulty = std::make_unique<FaultyEngine>(std::move(engine_));
  faults_ = faulty.get();
  engine_ = std::move(faulty);
}

}  // namespace kvasir::addon
