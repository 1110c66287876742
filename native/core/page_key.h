// The keys of a sequence's full pages, each a chain link:
//
//   key_i = first 128 bits of SHA-256("kvasir page" || key_{i-1}, 16 bytes || page size u32 || token ids of the page, i32 each)
//
// little endian; key_{-1} is the root of model, layout and tenant. All parts but the last have one size, and that one follows
// from the page size, so that no two different pages hash the same message.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "sha256.h"

namespace kvasir {

inline constexpr size_t kPageKeyBytes = 16;

class PageKeyChain {
 public:
  PageKeyChain(uint32_t page_size, const uint8_t* parent)
      : page_size_(page_size), message_(sha256_padded_bytes(kTokensAt + size_t{4} * page_size)) {
    std::memcpy(message_.data(), kTag, kTagBytes);
    std::memcpy(message_.data() + kTagBytes, parent, kPageKeyBytes);
    put(message_.data() + kTagBytes + kPageKeyBytes, page_size);
    sha256_pad(message_.data(), kTokensAt + size_t{4} * page_size);
  }

  // The key of the page of these tokens, behind the pages before.
  void next(const int32_t* tokens, uint8_t* key) {
    uint8_t* to = message_.data() + kTokensAt;
    for (uint32_t i = 0; i < page_size_; ++i) put(to + size_t{4} * i, static_cast<uint32_t>(tokens[i]));
    Sha256State state = kSha256Initial;
    sha256_compress(state, message_.data(), message_.size() / kSha256Block);
    sha256_put(state, kPageKeyBytes, message_.data() + kTagBytes);
    std::memcpy(key, message_.data() + kTagBytes, kPageKeyBytes);
  }

 private:
  static constexpr char kTag[] = "kvasir page";
  static constexpr size_t kTagBytes = sizeof kTag - 1;
  static constexpr size_t kTokensAt = kTagBytes + kPageKeyBytes + 4;

  static void put(uint8_t* to, uint32_t value) {
    for (int i = 0; i < 4; ++i) to[i] = static_cast<uint8_t>(value >> (8 * i));
  }

  uint32_t page_size_;
  std::vector<uint8_t> message_;  // padded; the parent and the tokens change from page to page
};

}  // namespace kvasir
