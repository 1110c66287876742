// Checks native/addon/slab_layout.h and native/addon/slab_index.h: places in the file do not overlap, whatever the slot size; and
// random takes, publishes, holds, releases, touches and forgets against a model of lists.
//
//   g++ -std=c++20 tests/native/slab_index_test.cc native/addon/slab_index.cc -o slab_index_test && ./slab_index_test
#include "../../native/addon/slab_index.h"

#include <algorithm>
#include <cstdio>
#include <list>
#include <map>
#include <random>
#include <vector>

namespace {

using namespace kvasir::addon;

int64_t checks = 0, failures = 0;

void expect(bool ok, const char* law, int64_t a = 0, int64_t b = 0) {
  ++checks;
  if (ok || ++failures > 20) return;
  printf("FAILED  %s: %lld, %lld\n", law, static_cast<long long>(a), static_cast<long long>(b));
}

void check_layout(uint64_t payload) {
  const SlabLayout layout{round_up(payload, kSector)};
  uint64_t end = kSlabHeaderBytes;
  for (uint64_t slot = 0; slot < 3 * kExtentSlots + 5; ++slot) {
    if (slot % kSectorSlots == 0) {
      const uint64_t sector = layout.sector_at(slot / kSectorSlots);
      if (slot % kExtentSlots == 0) expect(sector == end, "an extent begins where the last slot ends", slot);
      if (slot % kExtentSlots == 0) end += kExtentIndexBytes;
      expect(sector % kSector == 0 && sector + kSector <= layout.slot_at(slot), "a sector lies before its slots", slot);
    }
    expect(layout.slot_at(slot) == end, "a slot begins where the one before ends", static_cast<int64_t>(slot));
    end += layout.slot_bytes();
    expect(layout.file_bytes(slot + 1) == end, "a file ends with its last slot", static_cast<int64_t>(slot));
    expect(layout.slots_in(end) == slot + 1 && layout.slots_in(end - 1) == slot, "and has so many slots", slot);
  }
}

PageKey key_of(uint64_t number) {
  PageKey key{{}, static_cast<uint32_t>(number % 3)};
  std::memcpy(key.bytes.data(), &number, sizeof number);
  return key;
}

SlabEntry entry_of(uint64_t number, uint64_t sequence) {
  SlabEntry entry;
  entry.key = key_of(number);
  entry.parent.fill(static_cast<uint8_t>(number));
  entry.sequence = sequence;
  entry.payload_bytes = 1 + number % 4096;
  return entry;
}

void check_entries() {
  uint8_t bytes[kEntryBytes];
  for (uint64_t number = 1; number < 200; ++number) {
    const uint32_t slot = static_cast<uint32_t>(number * 7), salt = 99;
    const SlabEntry entry = entry_of(number, number * number);
    encode_entry(entry, slot, salt, bytes);
    SlabEntry out;
    expect(decode_entry(bytes, slot, salt, out) && out.key == entry.key && out.parent == entry.parent &&
               out.sequence == entry.sequence && out.payload_bytes == entry.payload_bytes,
           "an entry comes back", number);
    expect(!decode_entry(bytes, slot + 1, salt, out) && out.empty(), "but not in another slot", number);
    expect(!decode_entry(bytes, slot, salt + 1, out) && out.empty(), "nor from before a reset", number);
    for (size_t bit = 0; bit < 8 * kEntryBytes; ++bit) {
      bytes[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
      expect(!decode_entry(bytes, slot, salt, out) && out.empty(), "nor with a flipped bit", number, bit);
      bytes[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    }
  }
  encode_entry(SlabEntry{}, 5, 1, bytes);
  SlabEntry out;
  expect(decode_entry(bytes, 5, 1, out) && out.empty(), "an empty entry is no fault");
}

// Numbers of pages, oldest use first; what is held is not in the order.
struct Model {
  std::map<uint64_t, uint32_t> slot_of;
  std::map<uint32_t, int> holds;
  std::list<uint64_t> order;

  void use(uint64_t number) {
    order.remove(number);
    if (holds[slot_of[number]] == 0) order.push_back(number);
  }
  bool erase(uint64_t number) {
    order.remove(number);
    return slot_of.erase(number) > 0;
  }
};

void check_same(const SlabIndex& index, const Model& model, uint64_t numbers) {
  expect(index.pages() == model.slot_of.size(), "as many pages", index.pages(), model.slot_of.size());
  uint64_t bytes = 0;
  for (uint64_t number = 0; number < numbers; ++number) {
    const auto found = model.slot_of.find(number);
    const uint32_t expected = found == model.slot_of.end() ? SlabIndex::kNone : found->second;
    expect(index.find(key_of(number)) == expected, "a key leads to its slot, and to none when it has none", number, expected);
    if (found != model.slot_of.end()) bytes += 1 + number % 4096;
  }
  expect(index.payload_bytes() == bytes, "as many bytes", index.payload_bytes(), bytes);
}

void check_random(uint32_t capacity, int steps, uint32_t seed) {
  std::mt19937 random(seed);
  SlabIndex index(capacity);
  Model model;
  std::vector<uint32_t> held;  // slots, once for each hold
  const uint64_t numbers = capacity * 3;
  for (int step = 0; step < steps; ++step) {
    const uint64_t number = random() % numbers;
    const auto known = model.slot_of.find(number);
    switch (random() % 6) {
      case 0:
      case 1: {  // store
        if (known != model.slot_of.end()) break;
        const bool has_room = index.used() < capacity || index.pages() + held.size() < capacity;
        const uint64_t before = index.pages(), evictions = index.evictions();
        const uint32_t slot = index.take(capacity);
        if (slot == SlabIndex::kNone) {
          expect(!has_room && model.order.empty(), "a slot is refused only where all are held", capacity, held.size());
          break;
        }
        expect(std::find(held.begin(), held.end(), slot) == held.end(), "no slot that somebody holds", slot);
        if (index.evictions() > evictions) {
          expect(index.pages() == before - 1 && model.slot_of[model.order.front()] == slot, "the least recently used page goes",
                 slot);
          model.erase(model.order.front());
        }
        model.holds[slot] = 1;
        held.push_back(slot);
        if (random() % 8 == 0) break;  // the write failed
        index.publish(slot, entry_of(number, index.next_sequence(1)));
        expect(index.is_stale(slot), "the file may name a page that was published", slot);
        model.slot_of[number] = slot;
        break;
      }
      case 2:
        if (known == model.slot_of.end()) break;
        index.hold(known->second);
        ++model.holds[known->second];
        held.push_back(known->second);
        model.order.remove(number);
        break;
      case 3: {
        if (held.empty()) break;
        const size_t which = random() % held.size();
        const uint32_t slot = held[which];
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(which));
        index.release(slot);
        --model.holds[slot];
        for (const auto& [page, of] : std::map(model.slot_of))
          if (of == slot && model.holds[slot] == 0) model.use(page);
        break;
      }
      case 4:
        if (known == model.slot_of.end()) break;
        index.touch(known->second);
        model.use(number);
        break;
      case 5:
        if (known == model.slot_of.end() || random() % 4 != 0) break;
        index.forget(known->second);
        model.erase(number);
        break;
    }
    if (step % 97 == 0) check_same(index, model, numbers);
  }
  check_same(index, model, numbers);
}

void check_restore() {
  SlabIndex index(100);
  index.restore(7, entry_of(1, 10));
  index.restore(9, entry_of(1, 12));  // the same page, stored again later
  index.restore(3, entry_of(2, 11));
  index.restore(5, SlabEntry{});  // a torn entry
  index.restore(8, entry_of(1, 4));
  index.settle();
  expect(index.pages() == 2 && index.find(key_of(1)) == 9 && index.find(key_of(2)) == 3, "of two pages the later one stays");
  expect(index.payload_bytes() == 5, "and is counted", index.payload_bytes());
  std::vector<uint32_t> taken;
  for (int i = 0; i < 8; ++i) taken.push_back(index.take(10));
  std::sort(taken.begin(), taken.end());
  expect(taken == std::vector<uint32_t>{0, 1, 2, 4, 5, 6, 7, 8}, "all other slots are free");
  for (uint32_t slot : {5u, 7u, 8u}) expect(index.is_stale(slot), "what the file names there must be overwritten", slot);
  expect(!index.is_stale(0) && index.next_sequence(1) > 12, "and sequences go on");
  expect(index.take(10) == 3 && index.take(10) == 9 && index.take(10) == SlabIndex::kNone, "then the oldest go");
}

}  // namespace

int main() {
  for (uint64_t payload : {1, 4096, 4097, 10007, 2 << 20}) check_layout(payload);
  check_entries();
  check_restore();
  for (uint32_t seed = 0; seed < 40; ++seed) check_random(1 + seed * 3, 4000, seed);
  printf("%lld checks, %lld failed\n", static_cast<long long>(checks), static_cast<long long>(failures));
  return failures == 0 ? 0 : 1;
}
