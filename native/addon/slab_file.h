// The file of a disk tier: opening and locking it, its header, its room, and what its index says. Everything here may wait for
// the disk, and is called by the driver's thread alone.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "io_faults.h"
#include "slab_index.h"

namespace kvasir::addon {

enum class EngineChoice { any, ring, threads };

struct SlabOptions {
  std::string path;
  uint64_t max_bytes = 0;
  uint64_t page_bytes = 0;  // of the largest page
  uint32_t page_size = 0;   // tokens
  std::array<uint8_t, 16> fingerprint{};
  std::string identity;  // kept in the header for people and error sentences
  EngineChoice engine = EngineChoice::any;
  bool resets = false;          // a file of another identity, or with a damaged header of ours, is emptied
  int64_t sync_ms = -1;         // fdatasync after so much time with writes, and on closing; 0 on closing only; -1 never
  bool has_faults = false;      // tests: transfers can be made to fail
  bool refuses_direct = false;  // tests: as on a file system without O_DIRECT
};

// Memory at a sector's boundary.
struct FreeAligned {
  void operator()(uint8_t* memory) const;
};
using AlignedBytes = std::unique_ptr<uint8_t[], FreeAligned>;
AlignedBytes aligned_bytes(size_t bytes);

class SlabFile {
 public:
  static constexpr uint32_t kLeastSlots = 4;

  explicit SlabFile(SlabOptions options) : options_(std::move(options)) {}
  ~SlabFile();
  SlabFile(const SlabFile&) = delete;
  SlabFile& operator=(const SlabFile&) = delete;

  // Throws Failure. A file of another identity is not opened: `found_identity` then holds what the file says.
  void open();
  void close();

  const SlabOptions& options() const { return options_; }
  const std::string& found_identity() const { return found_identity_; }
  const SlabLayout& layout() const { return layout_; }
  uint32_t salt() const { return header_.salt; }
  bool is_direct() const { return is_direct_; }
  const std::string& why_not_ring() const { return why_not_ring_; }
  // Index entries that were torn, stale or of no use when the file was opened.
  uint64_t dropped_entries() const { return dropped_; }
  uint32_t capacity() const { return index_->capacity(); }
  const std::string& engine_name() const { return engine_name_; }
  IoEngine& engine() { return *engine_; }
  FaultyEngine* faults() { return faults_; }
  SlabIndex& index() { return *index_; }

  // Slots that the file has room for now.
  uint32_t room() const { return room_; }
  // More room by a step, if the file system has it; after a refusal not again for a while.
  void grow();
  // The file system has no room left after all.
  void stop_growing();
  // On this thread.
  void sync();

 private:
  void open_file();
  void lock_file();
  // Whether the file is ours and of this identity, or empty; sets found_identity_ where it is of another.
  bool adopt_header();
  void write_header();
  void choose_engine();
  void load_index();
  void take_extent(uint64_t extent, const uint8_t* entries);
  int64_t allocate(uint64_t from, uint64_t to);
  [[noreturn]] void refuse(const std::string& what, int error) const;

  const SlabOptions options_;
  int file_ = -1;
  bool is_direct_ = false;
  SlabLayout layout_;
  SlabHeader header_;
  std::string found_identity_, why_not_ring_, engine_name_;
  std::unique_ptr<IoEngine> engine_;
  FaultyEngine* faults_ = nullptr;
  std::unique_ptr<SlabIndex> index_;
  uint32_t room_ = 0;
  uint64_t dropped_ = 0;
  std::chrono::steady_clock::time_point grows_again_{};
};

}  // namespace kvasir::addon
