// Division of an int32 in [0, 2^31) by a divisor known on the host: one multiply, one add, one shift.
#pragma once
#include <cstdint>

#include "../../native/core/platform.h"

namespace kvasir::cuda {

struct FastDiv {
  uint32_t divisor = 1, multiplier = 0, shift = 0;

  FastDiv() = default;
  explicit FastDiv(uint32_t d) : divisor(d) {
    while ((1ull << shift) < d) ++shift;
    multiplier = static_cast<uint32_t>(((1ull << 32) * ((1ull << shift) - d)) / d + 1);
  }

  KVASIR_HD int div(int n) const {
#ifdef __CUDA_ARCH__
    const uint32_t high = __umulhi(static_cast<uint32_t>(n), multiplier);
#else
    const uint32_t high = static_cast<uint32_t>((static_cast<uint64_t>(n) * multiplier) >> 32);
#endif
    return static_cast<int>((high + static_cast<uint32_t>(n)) >> shift);
  }
  KVASIR_HD int mod(int n) const { return n - div(n) * static_cast<int>(divisor); }
};

}  // namespace kvasir::cuda
