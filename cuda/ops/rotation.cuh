// Rotary position embedding of whole tokens: (x_i, x_{i + half}) turned by float(position) * inv_freq[i], cos and sin times the
// scale; half-split pairs, i < half = rotary_dim / 2, the rest of a head unchanged. One CTA a token and group of heads keeps the
// token's cos and sin.
#pragma once
#include "../common/convert.cuh"

namespace kvasir::cuda {

inline constexpr int kRotationThreads = 256;
inline constexpr int kMaxHalf = 512;  // head_dim up to 1024

struct Rotation {
  const float* inv_freq;  // null: no rotation
  int64_t inv_freq_stride;
  float scale;
  int half;
};

// cos and sin of one token, by the whole CTA; a barrier must follow.
__device__ __forceinline__ void fill_rotation(const Rotation& r, int position, float* cosine, float* sine) {
  for (int i = threadIdx.x; i < r.half; i += kRotationThreads) {
    sincosf(__fmul_rn(static_cast<float>(position), r.inv_freq[i * r.inv_freq_stride]), &sine[i], &cosine[i]);
    cosine[i] *= r.scale;
    sine[i] *= r.scale;
  }
}

// Rotates pairs [i, i + kCount) of a head from `from` to `to`, which may be the same.
template <class T, int kCount>
__device__ __forceinline__ void rotate_pairs(const T* from, T* to, int i, int half, const float* cosine, const float* sine) {
  using V = Vector<T, kCount>;
  V low = V::load(from + i), high = V::load(from + i + half);
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const float a = as_float(low.elements[j]), b = as_float(high.elements[j]), c = cosine[i + j], s = sine[i + j];
    low.elements[j] = as_element<T>(a * c - b * s);
    high.elements[j] = as_element<T>(b * c + a * s);
  }
  low.store(to + i);
  high.store(to + i + half);
}

}  // namespace kvasir::cuda
