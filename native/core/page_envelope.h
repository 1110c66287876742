// The header that goes with every stored page, on disk and in a shared store: enough to tell that the bytes are whole, and that
// they are the page that was asked for. Little endian:
//
//   0 magic u64    8 version u32      12 header bytes u32   16 fingerprint[16]: model, layout, format, page size
//   32 key[16]     48 parent[16]      64 page size u32      68 token count u32   72 payload bytes u64
//   80 payload CRC-32C u32            84 layer group u32    88 token ids, i32 x page size (-1 behind the last token)
//   zeros; in the header's last four bytes the CRC-32C of all before them
//
// The header is rounded to 64 bytes (384 for 64 tokens, 1152 for 256), so that it fits before a payload in a message; a store
// that wants the payload aligned pads it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "crc32c.h"

namespace kvasir {

inline constexpr uint64_t kEnvelopeMagic = 0x6567617061766b93;  // "\x93kvapage"
inline constexpr uint32_t kEnvelopeVersion = 1;
inline constexpr uint32_t kMostPageTokens = 256;
inline constexpr size_t kEnvelopeTokensAt = 88;

constexpr size_t envelope_bytes(uint32_t page_size) { return (kEnvelopeTokensAt + size_t{4} * page_size + 4 + 63) / 64 * 64; }
inline constexpr size_t kMostEnvelopeBytes = envelope_bytes(kMostPageTokens);
static_assert(kMostEnvelopeBytes <= 4096, "a header fits in one sector");

// What a header says. The pointers are to 16 bytes each, and to page_size token ids.
struct PageEnvelope {
  const uint8_t* fingerprint = nullptr;
  const uint8_t* key = nullptr;
  const uint8_t* parent = nullptr;
  const int32_t* tokens = nullptr;
  uint32_t page_size = 0;  // 1 to kMostPageTokens
  uint32_t group = 0;
  uint64_t payload_bytes = 0;
};

enum class EnvelopeField : uint32_t {
  none,
  length,
  magic,
  version,
  header_bytes,
  fingerprint,
  key,
  parent,
  page_size,
  token_count,
  payload_bytes,
  group,
  tokens,
  header_crc,
  payload_crc,
};

constexpr const char* envelope_field_name(EnvelopeField field) {
  constexpr const char* kNames[] = {"none",          "length",      "magic",     "version",    "header bytes",
                                    "fingerprint",   "key",         "parent",    "page size",  "token count",
                                    "payload bytes", "layer group", "token ids", "header CRC", "payload CRC"};
  return kNames[static_cast<uint32_t>(field)];
}

// Tokens of a page before its padding of -1.
inline uint32_t token_count(const int32_t* tokens, uint32_t page_size) {
  uint32_t count = 0;
  while (count < page_size && tokens[count] >= 0) ++count;
  return count;
}

namespace envelope_detail {

inline void put(uint8_t* to, uint64_t value, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) to[i] = static_cast<uint8_t>(value >> (8 * i));
}
inline uint64_t get(const uint8_t* from, size_t bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < bytes; ++i) value |= uint64_t{from[i]} << (8 * i);
  return value;
}
inline uint32_t get32(const uint8_t* from) { return static_cast<uint32_t>(get(from, 4)); }

}  // namespace envelope_detail

// Writes the header of a page whose payload has this checksum; `out` holds envelope_bytes(page_size).
inline void seal_envelope(const PageEnvelope& page, uint32_t payload_crc, uint8_t* out) {
  using envelope_detail::put;
  const size_t bytes = envelope_bytes(page.page_size);
  std::memset(out, 0, bytes);
  put(out, kEnvelopeMagic, 8);
  put(out + 8, kEnvelopeVersion, 4);
  put(out + 12, bytes, 4);
  std::memcpy(out + 16, page.fingerprint, 16);
  std::memcpy(out + 32, page.key, 16);
  std::memcpy(out + 48, page.parent, 16);
  put(out + 64, page.page_size, 4);
  put(out + 68, token_count(page.tokens, page.page_size), 4);
  put(out + 72, page.payload_bytes, 8);
  put(out + 80, payload_crc, 4);
  put(out + 84, page.group, 4);
  for (uint32_t i = 0; i < page.page_size; ++i) put(out + kEnvelopeTokensAt + 4 * i, static_cast<uint32_t>(page.tokens[i]), 4);
  put(out + bytes - 4, crc32c(out, bytes - 4), 4);
}

// The first field in which the header of `available` bytes is not that of `page`, by their order in the header; `none` where it
// is. The payload is not looked at.
inline EnvelopeField check_envelope(const uint8_t* header, size_t available, const PageEnvelope& page) {
  using envelope_detail::get;
  using envelope_detail::get32;
  using F = EnvelopeField;
  const size_t bytes = envelope_bytes(page.page_size);
  if (available < bytes) return F::length;
  if (get(header, 8) != kEnvelopeMagic) return F::magic;
  if (get32(header + 8) != kEnvelopeVersion) return F::version;
  if (get32(header + 12) != bytes) return F::header_bytes;
  if (std::memcmp(header + 16, page.fingerprint, 16) != 0) return F::fingerprint;
  if (std::memcmp(header + 32, page.key, 16) != 0) return F::key;
  if (std::memcmp(header + 48, page.parent, 16) != 0) return F::parent;
  if (get32(header + 64) != page.page_size) return F::page_size;
  if (get32(header + 68) != token_count(page.tokens, page.page_size)) return F::token_count;
  if (get(header + 72, 8) != page.payload_bytes) return F::payload_bytes;
  if (get32(header + 84) != page.group) return F::group;
  for (uint32_t i = 0; i < page.page_size; ++i)
    if (get32(header + kEnvelopeTokensAt + 4 * i) != static_cast<uint32_t>(page.tokens[i])) return F::tokens;
  return get32(header + bytes - 4) == crc32c(header, bytes - 4) ? F::none : F::header_crc;
}

// The payload's checksum, as the header has it.
inline uint32_t envelope_payload_crc(const uint8_t* header) { return envelope_detail::get32(header + 80); }

// Header and payload of a page as stored; `none` where both are those of `page`.
inline EnvelopeField check_page(const uint8_t* header, size_t available, const void* payload, const PageEnvelope& page) {
  const EnvelopeField field = check_envelope(header, available, page);
  if (field != EnvelopeField::none) return field;
  const uint32_t crc = crc32c(payload, page.payload_bytes);
  return crc == envelope_payload_crc(header) ? EnvelopeField::none : EnvelopeField::payload_crc;
}

}  // namespace kvasir
