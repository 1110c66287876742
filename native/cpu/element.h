// The floating element types of tensors as C++ types, their scalar conversions, and the one switch from a dtype to a type.
#pragma once
#include <cstdint>

#include "../core/dtype.h"

namespace kvasir::cpu {

struct f16_t {
  uint16_t bits;
};
struct bf16_t {
  uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(f16_t x) { return f16_to_float(x.bits); }
inline float to_float(bf16_t x) { return bf16_to_float(x.bits); }

template <class T>
T from_float(float x);
template <>
inline float from_float<float>(float x) {
  return x;
}
template <>
inline f16_t from_float<f16_t>(float x) {
  return {float_to_f16(x)};
}
template <>
inline bf16_t from_float<bf16_t>(float x) {
  return {float_to_bf16(x)};
}

// Calls body with a value of the element type of an f32, f16 or bf16 tensor: `with_element(dtype, [&](auto zero) { using T =
// decltype(zero); ... })`.
template <class Body>
auto with_element(int32_t dtype, Body&& body) {
  switch (dtype) {
    case KVASIR_F16: return body(f16_t{});
    case KVASIR_BF16: return body(bf16_t{});
    default: return body(float{});
  }
}

}  // namespace kvasir::cpu
