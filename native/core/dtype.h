// Element types: sizes, names and scalar conversions (round to nearest even, NaN kept quiet). Host and device.
#pragma once
#include <cstdint>
#include <cstring>

#include "../abi/kvasir_abi.h"
#include "platform.h"

namespace kvasir {

KVASIR_HD int64_t dtype_bytes(int32_t dtype) {
  switch (dtype) {
    case KVASIR_F32:
    case KVASIR_I32: return 4;
    case KVASIR_F16:
    case KVASIR_BF16: return 2;
    default: return 1;
  }
}

inline const char* dtype_name(int32_t dtype) {
  static const char* const names[] = {"f32", "f16", "bf16", "f8e4m3", "f8e5m2", "i32", "u8", "i8"};
  return dtype >= 0 && dtype <= KVASIR_I8 ? names[dtype] : "unknown";
}

KVASIR_HD bool is_float(int32_t dtype) { return dtype >= KVASIR_F32 && dtype <= KVASIR_F8E5M2; }

KVASIR_HD uint32_t float_bits(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
}
KVASIR_HD float bits_float(uint32_t u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}

KVASIR_HD float bf16_to_float(uint16_t h) { return bits_float(static_cast<uint32_t>(h) << 16); }
KVASIR_HD uint16_t float_to_bf16(float x) {
  const uint32_t u = float_bits(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

KVASIR_HD float f16_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t magnitude = h & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_float(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  // A half's bits, shifted, are a float whose exponent is 112 too small; the multiply restores it and normalises subnormals.
  return bits_float(sign | float_bits(bits_float(magnitude << 13) * 0x1p112f));
}
KVASIR_HD uint16_t float_to_f16(float x) {
  const uint32_t u = float_bits(x);
  const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds past 65504
  if (magnitude < 0x38800000u) {                                               // subnormal half: let the adder round at 2^-24
    const float shifted = bits_float(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (float_bits(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

// OCP 8-bit floats. e4m3 has no infinity: what rounds past 448, infinities included, saturates to 448, and only NaN gives NaN.
KVASIR_HD float f8e4m3_to_float(uint8_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x80u) << 24;
  const uint32_t magnitude = h & 0x7fu;
  if (magnitude == 0x7fu) return bits_float(sign | 0x7fc00000u);
  return bits_float(sign | float_bits(bits_float(magnitude << 20) * 0x1p120f));
}
KVASIR_HD uint8_t float_to_f8e4m3(float x) {
  const uint32_t u = float_bits(x);
  const uint32_t sign = (u >> 24) & 0x80u, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint8_t>(sign | 0x7fu);
  if (magnitude >= 0x43e00000u) return static_cast<uint8_t>(sign | 0x7eu);
  if (magnitude < 0x3c800000u) {  // below 2^-6: let the adder round at 2^-9
    return static_cast<uint8_t>(sign | (float_bits(bits_float(magnitude) + 16384.f) - 0x46800000u));
  }
  const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
  return static_cast<uint8_t>(sign | ((rounded - 0x3c000000u) >> 20));
}

// e5m2 is the upper byte of a half; it has infinities, and overflow goes there.
KVASIR_HD float f8e5m2_to_float(uint8_t h) { return f16_to_float(static_cast<uint16_t>(h << 8)); }
KVASIR_HD uint8_t float_to_f8e5m2(float x) {
  const uint32_t u = float_bits(x);
  const uint32_t sign = (u >> 24) & 0x80u, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint8_t>(sign | 0x7eu);
  if (magnitude >= 0x47700000u) return static_cast<uint8_t>(sign | 0x7cu);  // 61440 and more round past 57344
  if (magnitude < 0x38800000u) {                                            // below 2^-14: let the adder round at 2^-16
    return static_cast<uint8_t>(sign | (float_bits(bits_float(magnitude) + 128.f) - 0x43000000u));
  }
  const uint32_t rounded = magnitude + 0xfffffu + ((magnitude >> 21) & 1u);
  return static_cast<uint8_t>(sign | ((rounded - 0x38000000u) >> 21));
}

}  // namespace kvasir
