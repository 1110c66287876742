// Philox4x32-10 (Salmon et al., SC 2011): a counter-based generator, so that a draw is a pure function of (seed, step) and both
// backends sample the same token.
#pragma once
#include <cstdint>

#include "platform.h"

namespace kvasir {

// Uniform in [0, 1) with 24 random bits, from the first word of philox(counter = {step, 0, 0, 0}, key = {seed, 0}).
KVASIR_HD float philox_uniform(uint32_t seed, uint32_t step) {
  uint32_t c0 = step, c1 = 0, c2 = 0, c3 = 0, k0 = seed, k1 = 0;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0, n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return static_cast<float>(c0 >> 8) * 0x1p-24f;
}

}  // namespace kvasir
