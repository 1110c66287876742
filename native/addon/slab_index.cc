#include "slab_index.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace kvasir::addon {

namespace {

uint64_t hash_of(const PageKey& key) {
  uint64_t low, high;
  std::memcpy(&low, key.bytes.data(), 8);
  std::memcpy(&high, key.bytes.data() + 8, 8);
  // Keys are digests, but who calls may as well count upwards: the multiplications spread any of them.
  uint64_t hash = (low ^ key.group) * 0x9e3779b97f4a7c15 + high;
  hash = (hash ^ hash >> 32) * 0xd6e8feb86659fd93;
  return hash ^ hash >> 32;
}

}  // namespace

void SlabIndex::FreeTable::operator()(uint32_t* table) const { std::free(table); }

SlabIndex::SlabIndex(uint32_t capacity) : capacity_(capacity) {
  size_t places = 64;
  while (places < size_t{2} * capacity) places *= 2;
  mask_ = places - 1;
  table_.reset(static_cast<uint32_t*>(std::calloc(places, sizeof(uint32_t))));
  if (table_ == nullptr) throw std::bad_alloc();
}

size_t SlabIndex::place_of(const PageKey& key) const {
  size_t place = hash_of(key) & mask_;
  while (table_[place] != 0 && at(table_[place] - 1).entry.key != key) place = (place + 1) & mask_;
  return place;
}

uint32_t SlabIndex::find(const PageKey& key) const {
  const uint32_t found = table_[place_of(key)];
  return found == 0 ? kNone : found - 1;
}

void SlabIndex::insert_key(uint32_t slot) { table_[place_of(at(slot).entry.key)] = slot + 1; }

// What follows in the run moves up where its own place lies at or before the gap.
void SlabIndex::erase_key(const PageKey& key) {
  size_t gap = place_of(key);
  for (size_t next = (gap + 1) & mask_; table_[next] != 0; next = (next + 1) & mask_) {
    const size_t own = hash_of(at(table_[next] - 1).entry.key) & mask_;
    if (((next - own) & mask_) < ((next - gap) & mask_)) continue;
    table_[gap] = table_[next];
    gap = next;
  }
  table_[gap] = 0;
}

void SlabIndex::link(uint32_t slot) {
  Slot& own = at(slot);
  own.older = newest_;
  own.newer = kNone;
  own.linked = true;
  (newest_ == kNone ? oldest_ : at(newest_).newer) = slot;
  newest_ = slot;
}

void SlabIndex::unlink(uint32_t slot) {
  Slot& own = at(slot);
  if (!own.linked) return;
  (own.newer == kNone ? newest_ : at(own.newer).older) = own.older;
  (own.older == kNone ? oldest_ : at(own.older).newer) = own.newer;
  own.linked = false;
}

uint64_t SlabIndex::next_sequence(uint64_t count) {
  const uint64_t first = sequence_;
  sequence_ += count;
  return first;
}

void SlabIndex::use_up_to(uint32_t slot) {
  while (chunks_.size() <= slot / kExtentSlots) chunks_.push_back(std::make_unique<Slot[]>(kExtentSlots));
  used_ = std::max(used_, slot + 1);
}

uint32_t SlabIndex::take(uint32_t limit) {
  uint32_t slot = kNone;
  if (!free_.empty()) {
    slot = free_.back();
    free_.pop_back();
  } else if (used_ < std::min(limit, capacity_)) {
    slot = used_;
    use_up_to(slot);
  } else if (oldest_ != kNone) {
    slot = oldest_;
    at(slot).holds = 1;  // not free in between
    forget(slot);
    ++evictions_;
    return slot;
  } else {
    return kNone;
  }
  at(slot).holds = 1;
  return slot;
}

void SlabIndex::publish(uint32_t slot, const SlabEntry& entry) {
  at(slot).entry = entry;
  at(slot).stale = true;  // from now on the file names it, or is about to
  insert_key(slot);
  ++pages_;
  payload_bytes_ += entry.payload_bytes;
}

void SlabIndex::hold(uint32_t slot) {
  if (at(slot).holds++ > 0) return;
  unlink(slot);
}

void SlabIndex::release(uint32_t slot) {
  Slot& own = at(slot);
  if (--own.holds > 0) return;
  if (!own.entry.empty())
    link(slot);
  else if (!own.withdrawn)
    free_.push_back(slot);
}

void SlabIndex::touch(uint32_t slot) {
  if (!at(slot).linked) return;
  unlink(slot);
  link(slot);
}

void SlabIndex::forget(uint32_t slot) {
  Slot& own = at(slot);
  if (own.entry.empty()) return;
  --pages_;
  payload_bytes_ -= own.entry.payload_bytes;
  erase_key(own.entry.key);
  unlink(slot);
  own.entry = SlabEntry{};
  if (own.holds == 0) free_.push_back(slot);
}

void SlabIndex::restore(uint32_t slot, const SlabEntry& entry) {
  use_up_to(slot);
  at(slot).stale = true;
  if (entry.empty()) return;
  const uint32_t twin = find(entry.key);
  if (twin != kNone && entry.sequence <= this->entry(twin).sequence) return;
  if (twin != kNone) {
    erase_key(entry.key);
    at(twin).entry = SlabEntry{};
    --pages_;
  }
  at(slot).entry = entry;
  insert_key(slot);
  ++pages_;
  sequence_ = std::max(sequence_, entry.sequence + 1);
}

void SlabIndex::settle() {
  std::vector<std::pair<uint64_t, uint32_t>> order;
  order.reserve(pages_);
  free_.clear();
  for (uint32_t slot = used_; slot-- > 0;) {
    const SlabEntry& entry = at(slot).entry;
    if (entry.empty()) {
      free_.push_back(slot);
      continue;
    }
    payload_bytes_ += entry.payload_bytes;
    order.emplace_back(entry.sequence, slot);
  }
  std::sort(order.begin(), order.end());
  for (const auto& [sequence, slot] : order) link(slot);
}

void SlabIndex::encode_sector(uint64_t sector, uint32_t salt, uint8_t* out) const {
  static constexpr SlabEntry kEmpty{};
  for (uint32_t i = 0; i < kSectorSlots; ++i) {
    const uint64_t slot = sector * kSectorSlots + i;
    const SlabEntry& entry = slot < used_ ? at(static_cast<uint32_t>(slot)).entry : kEmpty;
    encode_entry(entry, static_cast<uint32_t>(slot), salt, out + i * kEntryBytes);
  }
}

}  // namespace kvasir::addon
