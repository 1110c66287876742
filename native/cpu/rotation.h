// Rotary position embedding of one token: half-split pairs (x_i, x_{i + r/2}) turned by the angle float(position) * inv_freq[i],
// the product rounded to f32 as models compute it; cos and sin are multiplied by `scale`. Computed in f32, rounded once.
#pragma once
#include <cmath>
#include <cstdint>

#include "element.h"

namespace kvasir::cpu {

// Fills cosine and sine, [rotary_dim / 2] each.
inline void rotation_table(const kvasir_tensor& inv_freq, int32_t position, float scale, float* cosine, float* sine) {
  const float* frequency = static_cast<const float*>(inv_freq.data);
  for (int64_t i = 0; i < inv_freq.shape[0]; ++i) {
    const float angle = static_cast<float>(position) * frequency[i * inv_freq.stride[0]];
    cosine[i] = std::cos(angle) * scale;
    sine[i] = std::sin(angle) * scale;
  }
}

// to = from rotated in its first 2 * half elements; may be the same row.
template <class T>
void rotate_head(const T* from, T* to, const float* cosine, const float* sine, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = to_float(from[i]), b = to_float(from[i + half]);
    to[i] = from_float<T>(a * cosine[i] - b * sine[i]);
    to[i + half] = from_float<T>(b * cosine[i] + a * sine[i]);
  }
}

// All heads of token t of x [total, heads, head_dim], in place.
template <class T>
void rotate_token(const kvasir_tensor& x, int64_t t, const float* cosine, const float* sine, int64_t half) {
  for (int64_t head = 0; head < x.shape[1]; ++head) {
    T* row = static_cast<T*>(x.data) + t * x.stride[0] + head * x.stride[1];
    rotate_head(row, row, cosine, sine, half);
  }
}

}  // namespace kvasir::cpu
