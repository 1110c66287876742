// Writes index sectors. Whoever changed an entry asks for its sector and is told when a write that began afterwards is done;
// while a sector is being written, requests for it gather and share the next write.
#pragma once
#include <functional>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "slab_file.h"

namespace kvasir::addon {

struct PageOp;

// Hears of its own requests; driver's thread.
struct IoOwner {
  virtual ~IoOwner() = default;
  // All bytes were moved (result > 0), the file ended before (0), or -errno.
  virtual void arrived(IoRequest& request) = 0;
};

class SlabSectors {
 public:
  struct Hooks {
    std::function<void(uint64_t sector, uint8_t* out)> encode;  // the sector's entries as they are now
    std::function<void(IoRequest&)> submit;
    std::function<void(PageOp&, int error)> passed;
  };
  SlabSectors(const SlabLayout& layout, Hooks hooks) : layout_(layout), hooks_(std::move(hooks)) {}

  // `waiter` may be null.
  void write(uint64_t sector, PageOp* waiter);
  bool idle() const { return sectors_.empty(); }

 private:
  struct Sector : IoOwner {
    Sector(SlabSectors& o, uint64_t n) : owner(o), number(n) {}
    void arrived(IoRequest& done) override { owner.written(*this, done); }
    SlabSectors& owner;
    const uint64_t number;
    AlignedBytes bytes = aligned_bytes(kSector);
    IoRequest request;
    std::vector<PageOp*> riding, waiting;
    bool is_asked = false, is_written = false;
  };
  void begin(Sector& sector);
  void written(Sector& sector, IoRequest& done);

  const SlabLayout& layout_;
  const Hooks hooks_;
  std::unordered_map<uint64_t, std::unique_ptr<Sector>> sectors_;
};

}  // namespace kvasir::addon
