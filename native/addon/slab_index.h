// What a slab file holds, in memory: entries by slot, slots by key, the order of eviction, and the slots that are free. No input
// or output here, and no lock: the owner has one. Memory is 80 bytes a slot that was ever used, and 8 bytes a slot of the
// capacity, which the system hands out as they are touched.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "slab_layout.h"

namespace kvasir::addon {

class SlabIndex {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  explicit SlabIndex(uint32_t capacity);

  uint32_t capacity() const { return capacity_; }
  uint32_t used() const { return used_; }  // slots that were ever taken: 0 to used - 1
  uint64_t pages() const { return pages_; }
  uint64_t payload_bytes() const { return payload_bytes_; }
  uint64_t evictions() const { return evictions_; }

  // The slot of a page that can be loaded, or kNone.
  uint32_t find(const PageKey& key) const;
  const SlabEntry& entry(uint32_t slot) const { return at(slot).entry; }
  uint64_t next_sequence(uint64_t count);

  // Whether the next `take` has no free slot, and none that was never used below `limit`, though the capacity has.
  bool needs_room(uint32_t limit) const { return free_.empty() && used_ >= limit && used_ < capacity_; }
  // Takes a slot for a page to come: a free one, else a new one below `limit`, else that of the least recently used page that
  // nobody holds. kNone where there is none. The slot comes held.
  uint32_t take(uint32_t limit);
  // Whether the file may still name a page in this slot, which must be overwritten before the slot is written.
  bool is_stale(uint32_t slot) const { return at(slot).stale; }
  void set_stale(uint32_t slot, bool stale) { at(slot).stale = stale; }
  // Gives a page to a held slot; it is found from now on, and held on.
  void publish(uint32_t slot, const SlabEntry& entry);
  // Keeps the slot of a page from being taken, until as many releases.
  void hold(uint32_t slot);
  // The last release frees a slot without a page, and makes a page the most recently used.
  void release(uint32_t slot);
  // The last release will not free the slot: it is lost to this index.
  void withdraw(uint32_t slot) { at(slot).withdrawn = true; }
  // Makes the page the most recently used.
  void touch(uint32_t slot);
  // Forgets the page of a slot; the slot is free once nobody holds it.
  void forget(uint32_t slot);

  // Rebuilding from a file: entries in any order, then `settle`, which orders them. Of two pages with one key the later one
  // stays; an empty entry says that the file has something there that is no page.
  void restore(uint32_t slot, const SlabEntry& entry);
  void settle();

  // Pages to be written in this sector, 64 entries.
  void encode_sector(uint64_t sector, uint32_t salt, uint8_t* out) const;

 private:
  struct Slot {
    SlabEntry entry;
    uint32_t newer = kNone, older = kNone;
    uint32_t holds = 0;
    bool stale = false, withdrawn = false, linked = false;
  };
  Slot& at(uint32_t slot) { return chunks_[slot / kExtentSlots][slot % kExtentSlots]; }
  const Slot& at(uint32_t slot) const { return chunks_[slot / kExtentSlots][slot % kExtentSlots]; }
  size_t place_of(const PageKey& key) const;
  void insert_key(uint32_t slot);
  void erase_key(const PageKey& key);
  void link(uint32_t slot);
  void unlink(uint32_t slot);
  void use_up_to(uint32_t slot);

  struct FreeTable {
    void operator()(uint32_t* table) const;
  };
  const uint32_t capacity_;
  size_t mask_ = 0;
  std::unique_ptr<uint32_t[], FreeTable> table_;  // slot + 1 by hash, 0 where empty; linear probing
  std::vector<std::unique_ptr<Slot[]>> chunks_;
  std::vector<uint32_t> free_;
  uint32_t used_ = 0, newest_ = kNone, oldest_ = kNone;
  uint64_t pages_ = 0, payload_bytes_ = 0, sequence_ = 1, evictions_ = 0;
};

}  // namespace kvasir::addon
