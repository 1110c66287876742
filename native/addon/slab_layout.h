// Where things lie in a slab file, and what its header and index entries hold. All little endian, all in units of 4 KiB:
//
//   header, 64 KiB          what the pages are (an identity that only its owner reads), and the sizes below
//   extents, one after another, each
//     index, 64 KiB         1024 entries of 64 bytes: what slot i of the extent holds
//     slots                 1024 x (4 KiB page header + payload rounded to 4 KiB)
//
// A file ends where its last slot ends; the last extent may be cut short. Sizes depend on the slot size alone, so that a file can
// be opened with more or less room than before.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "../core/page_envelope.h"

namespace kvasir::addon {

inline constexpr size_t kSector = 4096;
inline constexpr uint64_t kSlabMagic = 0x62616c736176'6b93;  // "\x93kvaslab"
inline constexpr uint32_t kSlabVersion = 1;
inline constexpr size_t kSlabHeaderBytes = 64 << 10;
inline constexpr size_t kMostIdentityBytes = kSlabHeaderBytes - kSector;
inline constexpr size_t kEntryBytes = 64;
inline constexpr uint32_t kExtentSlots = 1024, kSectorSlots = kSector / kEntryBytes;
inline constexpr size_t kExtentIndexBytes = kExtentSlots * kEntryBytes;

constexpr uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

struct SlabLayout {
  uint64_t payload_bytes = 0;  // of the largest page, rounded to sectors

  constexpr uint64_t slot_bytes() const { return kSector + payload_bytes; }
  constexpr uint64_t extent_bytes() const { return kExtentIndexBytes + kExtentSlots * slot_bytes(); }
  constexpr uint64_t extent_at(uint64_t extent) const { return kSlabHeaderBytes + extent * extent_bytes(); }
  constexpr uint64_t slot_at(uint64_t slot) const {
    return extent_at(slot / kExtentSlots) + kExtentIndexBytes + slot % kExtentSlots * slot_bytes();
  }
  // The index sector that holds the slot's entry; sectors are numbered through all extents.
  constexpr uint64_t sector_at(uint64_t sector) const {
    constexpr uint64_t kPerExtent = kExtentSlots / kSectorSlots;
    return extent_at(sector / kPerExtent) + sector % kPerExtent * kSector;
  }
  // Bytes of a file with this many slots, and slots of a file with this many bytes.
  constexpr uint64_t file_bytes(uint64_t slots) const {
    return slots == 0 ? kSlabHeaderBytes : slot_at(slots - 1) + slot_bytes();
  }
  constexpr uint64_t slots_in(uint64_t bytes) const {
    if (bytes < kSlabHeaderBytes) return 0;
    const uint64_t extents = (bytes - kSlabHeaderBytes) / extent_bytes(), rest = (bytes - kSlabHeaderBytes) % extent_bytes();
    return extents * kExtentSlots + (rest < kExtentIndexBytes ? 0 : (rest - kExtentIndexBytes) / slot_bytes());
  }
};

// 128 bits and the layer group that they belong to.
struct PageKey {
  std::array<uint8_t, 16> bytes{};
  uint32_t group = 0;
  bool operator==(const PageKey&) const = default;
};

// What a slot holds; all zeros where it holds nothing.
struct SlabEntry {
  PageKey key;
  std::array<uint8_t, 16> parent{};
  uint64_t sequence = 0;  // later pages have greater ones; from 1
  uint64_t payload_bytes = 0;

  bool empty() const { return sequence == 0; }
};

//   0 key[16]  16 parent[16]  32 sequence u64  40 slot u32  44 group u32  48 payload bytes u64  56 salt u32  60 CRC-32C u32
// The salt is the file's own, new with each reset: an entry from before is none.
inline void encode_entry(const SlabEntry& entry, uint32_t slot, uint32_t salt, uint8_t* out) {
  using envelope_detail::put;
  std::memset(out, 0, kEntryBytes);
  if (entry.empty()) return;
  std::memcpy(out, entry.key.bytes.data(), 16);
  std::memcpy(out + 16, entry.parent.data(), 16);
  put(out + 32, entry.sequence, 8);
  put(out + 40, slot, 4);
  put(out + 44, entry.key.group, 4);
  put(out + 48, entry.payload_bytes, 8);
  put(out + 56, salt, 4);
  put(out + 60, crc32c(out, 60), 4);
}

// False for an entry that is torn, stale or another slot's; `out` is then empty, as it is for an empty one.
inline bool decode_entry(const uint8_t* from, uint32_t slot, uint32_t salt, SlabEntry& out) {
  using envelope_detail::get;
  using envelope_detail::get32;
  out = SlabEntry{};
  bool is_zero = true;
  for (size_t i = 0; i < kEntryBytes && is_zero; ++i) is_zero = from[i] == 0;
  if (is_zero) return true;
  if (get32(from + 60) != crc32c(from, 60) || get32(from + 40) != slot || get32(from + 56) != salt) return false;
  std::memcpy(out.key.bytes.data(), from, 16);
  std::memcpy(out.parent.data(), from + 16, 16);
  out.sequence = get(from + 32, 8);
  out.key.group = get32(from + 44);
  out.payload_bytes = get(from + 48, 8);
  return !out.empty();
}

// The file's header:
//   0 magic u64  8 version u32  12 salt u32  16 fingerprint[16]  32 payload bytes of a slot u64  40 length of the identity u32
//   44 the identity's text; in the header's last four bytes the CRC-32C of all before them
struct SlabHeader {
  uint32_t salt = 0;
  std::array<uint8_t, 16> fingerprint{};
  uint64_t payload_bytes = 0;
  std::string identity;
};

enum class HeaderState { good, absent, foreign, other_version, damaged };

inline void encode_header(const SlabHeader& header, uint8_t* out) {
  using envelope_detail::put;
  std::memset(out, 0, kSlabHeaderBytes);
  put(out, kSlabMagic, 8);
  put(out + 8, kSlabVersion, 4);
  put(out + 12, header.salt, 4);
  std::memcpy(out + 16, header.fingerprint.data(), 16);
  put(out + 32, header.payload_bytes, 8);
  put(out + 40, header.identity.size(), 4);
  std::memcpy(out + 44, header.identity.data(), header.identity.size());
  put(out + kSlabHeaderBytes - 4, crc32c(out, kSlabHeaderBytes - 4), 4);
}

// `available` bytes of the file's beginning. All zeros are an absent header: a file whose maker was killed before it wrote one.
inline HeaderState decode_header(const uint8_t* from, size_t available, SlabHeader& out) {
  using envelope_detail::get;
  using envelope_detail::get32;
  bool is_zero = true;
  for (size_t i = 0; i < available && is_zero; ++i) is_zero = from[i] == 0;
  if (is_zero) return HeaderState::absent;
  if (available < 8 || get(from, 8) != kSlabMagic) return HeaderState::foreign;
  if (available < kSlabHeaderBytes) return HeaderState::damaged;
  if (get32(from + 8) != kSlabVersion) return HeaderState::other_version;
  const uint32_t length = get32(from + 40);
  if (get32(from + kSlabHeaderBytes - 4) != crc32c(from, kSlabHeaderBytes - 4) || length > kMostIdentityBytes)
    return HeaderState::damaged;
  out.salt = get32(from + 12);
  std::memcpy(out.fingerprint.data(), from + 16, 16);
  out.payload_bytes = get(from + 32, 8);
  out.identity.assign(reinterpret_cast<const char*>(from + 44), length);
  return HeaderState::good;
}

}  // namespace kvasir::addon
