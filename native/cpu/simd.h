// Vectors of f32 for one instruction set, from one source.
//
// A kernel lives in a header that is compiled once per set by small files such as attention_avx512.cc:
//     #define KVASIR_SIMD_AVX512            // or _PORTABLE, _AVX2, _AVX512_BF16
//     #include "simd.h"                     // last: from here to the end of the file the code is compiled for the set
//     #include "attention_kernel.h"         // no standard header may be first seen after simd.h
// Everything is in namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE, so that the sets never share a symbol. Only x86-64 GCC builds
// more than the portable set; KVASIR_SIMD_X86 says so, and select_isa() in the dispatching file falls back to what was built.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "element.h"
#include "isa.h"
#include "simd_x86.h"

#if defined(KVASIR_SIMD_AVX512_BF16)
#define KVASIR_SIMD_NAMESPACE isa_avx512_bf16
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")
#elif defined(KVASIR_SIMD_AVX512)
#define KVASIR_SIMD_NAMESPACE isa_avx512
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")
#elif defined(KVASIR_SIMD_AVX2)
#define KVASIR_SIMD_NAMESPACE isa_avx2
#pragma GCC target("avx2,fma,f16c")
#else
#define KVASIR_SIMD_NAMESPACE isa_portable
#endif

#define KVASIR_INLINE static inline __attribute__((always_inline))

namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE {

#if defined(KVASIR_SIMD_AVX512) || defined(KVASIR_SIMD_AVX512_BF16)
constexpr int kLanes = 16;
#elif defined(KVASIR_SIMD_AVX2)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
#if defined(KVASIR_SIMD_AVX512_BF16)
constexpr bool kHasBf16Dot = true;
#else
constexpr bool kHasBf16Dot = false;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t VecInt __attribute__((vector_size(kLanes * 4)));  // comparisons of Vec give this: 0 or -1 per lane
typedef uint32_t VecBits __attribute__((vector_size(kLanes * 4)));
typedef uint16_t VecHalfBits __attribute__((vector_size(kLanes * 2)));

KVASIR_INLINE Vec splat(float x) { return x - Vec{}; }
KVASIR_INLINE VecInt splat_int(int32_t x) { return x - VecInt{}; }
KVASIR_INLINE VecInt lane_index() {
  VecInt lanes = {};
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  return lanes;
}
KVASIR_INLINE Vec select(VecInt condition, Vec yes, Vec no) { return condition ? yes : no; }
// The greater (smaller) lane; b where either is NaN.
KVASIR_INLINE Vec maximum(Vec a, Vec b) {
#if defined(KVASIR_SIMD_AVX512) || defined(KVASIR_SIMD_AVX512_BF16)
  return _mm512_max_ps(a, b);
#elif defined(KVASIR_SIMD_AVX2)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}
KVASIR_INLINE Vec minimum(Vec a, Vec b) {
#if defined(KVASIR_SIMD_AVX512) || defined(KVASIR_SIMD_AVX512_BF16)
  return _mm512_min_ps(a, b);
#elif defined(KVASIR_SIMD_AVX2)
  return _mm256_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}
KVASIR_INLINE VecBits bits_of(Vec x) { return reinterpret_cast<VecBits>(x); }
KVASIR_INLINE Vec vec_of(VecBits x) { return reinterpret_cast<Vec>(x); }

// a * b + c, rounded once where the set has it.
KVASIR_INLINE Vec fmadd(Vec a, Vec b, Vec c) {
#if defined(KVASIR_SIMD_AVX512) || defined(KVASIR_SIMD_AVX512_BF16)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(KVASIR_SIMD_AVX2)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// ---- memory
// ---------------------------------------------------------------------------------------------------------------------

template <class V>
KVASIR_INLINE V load_raw(const void* p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}
template <class V>
KVASIR_INLINE void store_raw(void* p, V v) {
  memcpy(p, &v, sizeof v);
}

KVASIR_INLINE Vec load(const float* p) { return load_raw<Vec>(p); }
KVASIR_INLINE Vec load(const bf16_t* p) {
#if defined(KVASIR_SIMD_AVX512) || defined(KVASIR_SIMD_AVX512_BF16)
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_raw<__m256i>(p)), 16));
#elif defined(KVASIR_SIMD_AVX2)
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_raw<__m128i>(p)), 16));
#else
  return vec_of(__builtin_convertvector(load_raw<VecHalfBits>(p), VecBits) << 16);
#endif
}
KVASIR_INLINE Vec load(const f16_t* p) {
#if defined(KVASIR_SIMD_AVX512) || defined(KVASIR_SIMD_AVX512_BF16)
  return _mm512_cvtph_ps(load_raw<__m256i>(p));
#elif defined(KVASIR_SIMD_AVX2)
  return _mm256_cvtph_ps(load_raw<__m128i>(p));
#else
  Vec v;
  for (int i = 0; i < kLanes; ++i) v[i] = f16_to_float(p[i].bits);
  return v;
#endif
}

KVASIR_INLINE void store(float* p, Vec v) { store_raw(p, v); }
KVASIR_INLINE void store(bf16_t* p, Vec v) {  // round to nearest even; the bits of float_to_bf16
  const VecBits u = bits_of(v), rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const VecBits out = v != v ? (u >> 16) | 0x40u : rounded;
  store_raw(p, __builtin_convertvector(out, VecHalfBits));
}
KVASIR_INLINE void store(f16_t* p, Vec v) {
#if defined(KVASIR_SIMD_AVX512) || defined(KVASIR_SIMD_AVX512_BF16)
  store_raw(p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(KVASIR_SIMD_AVX2)
  store_raw(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes; ++i) p[i].bits = float_to_f16(v[i]);
#endif
}

// The first `count` < kLanes elements (the rest zero): for tails.
template <class T>
KVASIR_INLINE Vec load_first(const T* p, int count) {
  T padded[kLanes] = {};
  memcpy(padded, p, count * sizeof(T));
  return load(padded);
}
template <class T>
KVASIR_INLINE void store_first(T* p, Vec v, int count) {
  T padded[kLanes];
  store(padded, v);
  memcpy(p, padded, count * sizeof(T));
}

// ---- bf16 pairs: a VecBits holds 2 * kLanes bf16 numbers, the even one in the low half of a lane
// -----------------------------------

#if defined(KVASIR_SIMD_AVX512_BF16)
// acc[i] + a[i].low * b[i].low + a[i].high * b[i].high; subnormals count as zero.
KVASIR_INLINE Vec dot_bf16(Vec acc, VecBits a, VecBits b) {
  return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
// 2 * kLanes consecutive floats as bf16, in order.
KVASIR_INLINE VecBits to_bf16_pairs(Vec first, Vec second) {
  return reinterpret_cast<VecBits>(_mm512_cvtne2ps_pbh(second, first));
}
#endif

// ---- reductions over lanes: a fixed tree, so that the result does not depend on the caller
// ---------------------------------------

struct Sum {
  KVASIR_INLINE Vec fold(Vec a, Vec b) { return a + b; }
};
struct Maximum {
  KVASIR_INLINE Vec fold(Vec a, Vec b) { return maximum(a, b); }
};
template <class Op, int kStep>
KVASIR_INLINE Vec reduce_stage(Vec v) {
  return Op::fold(v, __builtin_shuffle(v, lane_index() ^ kStep));
}
template <class Op>
KVASIR_INLINE float reduce(Vec v) {
  if constexpr (kLanes > 8) v = reduce_stage<Op, 8>(v);
  if constexpr (kLanes > 4) v = reduce_stage<Op, 4>(v);
  return reduce_stage<Op, 1>(reduce_stage<Op, 2>(v))[0];
}
KVASIR_INLINE float reduce_add(Vec v) { return reduce<Sum>(v); }
KVASIR_INLINE float reduce_max(Vec v) { return reduce<Maximum>(v); }

// ---- elementary functions: relative error about 1e-7
// ------------------------------------------------------------------------------

// 2^x for x <= 127; results below the smallest normal number are 0 (so 2^-inf = 0 exactly), and 2^0 = 1 exactly. NaN gives NaN.
KVASIR_INLINE Vec exp2(Vec x) {
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, held in the low bits
  const Vec shifted = x + magic;
  const Vec f = x - (shifted - magic);  // in [-1/2, 1/2]
  Vec p = splat(1.535336188319500e-4f);
  p = fmadd(p, f, splat(1.339887440266574e-3f));
  p = fmadd(p, f, splat(9.618437357674640e-3f));
  p = fmadd(p, f, splat(5.550332471162809e-2f));
  p = fmadd(p, f, splat(2.402264791363012e-1f));
  p = fmadd(p, f, splat(6.931472028550421e-1f));
  p = fmadd(p, f, splat(1.0f));
  const Vec scaled = vec_of(bits_of(p) + (bits_of(shifted) << 23));
  return select(x < splat(-126.0f), Vec{}, scaled);
}

// e^x; 0 below -87.3, inf above 88.3.
KVASIR_INLINE Vec exp(Vec x) {
  const Vec magic = splat(12582912.0f);
  const Vec shifted = fmadd(x, splat(1.44269504088896341f), magic);
  const Vec n = shifted - magic;
  const Vec r = fmadd(n, splat(2.12194440e-4f), fmadd(n, splat(-0.693359375f), x));  // ln 2 in two parts
  Vec p = splat(1.9875691500e-4f);
  p = fmadd(p, r, splat(1.3981999507e-3f));
  p = fmadd(p, r, splat(8.3334519073e-3f));
  p = fmadd(p, r, splat(4.1665795894e-2f));
  p = fmadd(p, r, splat(1.6666665459e-1f));
  p = fmadd(p, r, splat(5.0000001201e-1f));
  p = fmadd(p, r * r, r + 1.0f);
  const Vec scaled = vec_of(bits_of(p) + (bits_of(shifted) << 23));
  return select(x < splat(-87.3f), Vec{}, select(x > splat(88.3f), splat(INFINITY), scaled));
}

// tanh x = 1 - 2 / (e^2x + 1): absolute error 1e-7.
KVASIR_INLINE Vec tanh(Vec x) { return 1.0f - 2.0f / (exp(x + x) + 1.0f); }

// ---- transposition of a square of 32-bit lanes
// ------------------------------------------------------------------------------------

// rows[i][j] <-> rows[j][i].
#if defined(KVASIR_SIMD_AVX512) || defined(KVASIR_SIMD_AVX512_BF16)
// By shuffles whose pattern is in the instruction: the registers that hold patterns elsewhere are free for the caller's sums.
KVASIR_INLINE void transpose(VecBits (&rows)[16]) {
  __m512i pairs[16], quads[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    const __m512i a = reinterpret_cast<__m512i>(rows[i]), b = reinterpret_cast<__m512i>(rows[i + 1]);
    pairs[i] = _mm512_unpacklo_epi32(a, b);
    pairs[i + 1] = _mm512_unpackhi_epi32(a, b);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    quads[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
    quads[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
    quads[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
    quads[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
  // 128-bit lane l of quads[4 * n + c] is column 4 * l + c of rows 4 * n to 4 * n + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i even_low = _mm512_shuffle_i32x4(quads[c], quads[4 + c], 0x88);
    const __m512i odd_low = _mm512_shuffle_i32x4(quads[c], quads[4 + c], 0xdd);
    const __m512i even_high = _mm512_shuffle_i32x4(quads[8 + c], quads[12 + c], 0x88);
    const __m512i odd_high = _mm512_shuffle_i32x4(quads[8 + c], quads[12 + c], 0xdd);
    rows[c] = reinterpret_cast<VecBits>(_mm512_shuffle_i32x4(even_low, even_high, 0x88));
    rows[4 + c] = reinterpret_cast<VecBits>(_mm512_shuffle_i32x4(odd_low, odd_high, 0x88));
    rows[8 + c] = reinterpret_cast<VecBits>(_mm512_shuffle_i32x4(even_low, even_high, 0xdd));
    rows[12 + c] = reinterpret_cast<VecBits>(_mm512_shuffle_i32x4(odd_low, odd_high, 0xdd));
  }
}
#else
// Stage s exchanges bit s of the row index with bit s of the lane index.
template <int kStep>
KVASIR_INLINE void transpose_stage(VecBits (&rows)[kLanes]) {
  VecBits low_from, high_from;
  for (int lane = 0; lane < kLanes; ++lane) {
    const bool odd = (lane & kStep) != 0;
    low_from[lane] = odd ? kLanes + lane - kStep : lane;
    high_from[lane] = odd ? kLanes + lane : lane + kStep;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if ((i & kStep) != 0) continue;
    const VecBits a = rows[i], b = rows[i + kStep];
    rows[i] = __builtin_shuffle(a, b, low_from);
    rows[i + kStep] = __builtin_shuffle(a, b, high_from);
  }
}
KVASIR_INLINE void transpose(VecBits (&rows)[kLanes]) {
  if constexpr (kLanes > 8) transpose_stage<8>(rows);
  if constexpr (kLanes > 4) transpose_stage<4>(rows);
  transpose_stage<2>(rows);
  transpose_stage<1>(rows);
}
#endif

}  // namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE
