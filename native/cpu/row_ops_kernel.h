// The loops of row_ops.h for one instruction set. Include simd.h before it; the plain loops over doubles are left to the
// compiler's vectoriser, which sees the same set.
#pragma once
#include "row_ops.h"

namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE {

// exp for x <= 0 in float64, to 2 ulp; below -708 it is 0. NaN stays.
KVASIR_INLINE double exp_f64(double x) {
  const double y = x < -708.0 ? -708.0 : x;
  const double magic = 0x1.8p52;  // adding it rounds to an integer, held in the low bits
  const double shifted = y * 0x1.71547652b82fep+0 + magic;
  const double n = shifted - magic;
  int64_t bits, magic_bits;
  memcpy(&bits, &shifted, 8);
  memcpy(&magic_bits, &magic, 8);
  const double r = (y - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33;  // ln 2 in two parts
  double p = 1.0 / 6227020800.0;  // Taylor to degree 13: the remainder is below 2^-57 for |r| <= ln 2 / 2
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const uint64_t scale_bits = static_cast<uint64_t>(bits - magic_bits + 1023) << 52;
  double scale;
  memcpy(&scale, &scale_bits, 8);
  const double result = p * scale;
  return x < -708.0 ? 0.0 : result;
}

template <class T>
KVASIR_INLINE void load_as(const T* x, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, load(x + i));
  for (; i < n; ++i) out[i] = to_float(x[i]);
}

static void load_row(int32_t dtype, const void* x, int64_t n, float* out) {
  const auto* bytes = static_cast<const uint8_t*>(x);
  switch (dtype) {
    case KVASIR_F16: load_as(static_cast<const f16_t*>(x), n, out); break;
    case KVASIR_BF16: load_as(static_cast<const bf16_t*>(x), n, out); break;
    case KVASIR_F8E4M3:
      for (int64_t i = 0; i < n; ++i) out[i] = f8e4m3_to_float(bytes[i]);
      break;
    case KVASIR_F8E5M2:
      for (int64_t i = 0; i < n; ++i) out[i] = f8e5m2_to_float(bytes[i]);
      break;
    default: memcpy(out, x, static_cast<size_t>(n) * sizeof(float));
  }
}

template <class T>
KVASIR_INLINE void store_as(const float* x, int64_t n, T* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, load(x + i));
  for (; i < n; ++i) out[i] = from_float<T>(x[i]);
}

static void store_row(int32_t dtype, const float* x, int64_t n, void* out) {
  auto* bytes = static_cast<uint8_t*>(out);
  switch (dtype) {
    case KVASIR_F16: store_as(x, n, static_cast<f16_t*>(out)); break;
    case KVASIR_BF16: store_as(x, n, static_cast<bf16_t*>(out)); break;
    case KVASIR_F8E4M3:
      for (int64_t i = 0; i < n; ++i) bytes[i] = float_to_f8e4m3(x[i]);
      break;
    case KVASIR_F8E5M2:
      for (int64_t i = 0; i < n; ++i) bytes[i] = float_to_f8e5m2(x[i]);
      break;
    default: memcpy(out, x, static_cast<size_t>(n) * sizeof(float));
  }
}

static void add_rows(const float* a, const float* b, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}

static void scale_mul_row(const float* x, float scale, const float* weight, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

static void silu_mul_row(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int count = n - i < kLanes ? static_cast<int>(n - i) : kLanes;
    const bool whole = count == kLanes;
    const Vec g = whole ? load(gate + i) : load_first(gate + i, count), u = whole ? load(up + i) : load_first(up + i, count);
    const Vec product = g / (1.f + exp(-g)) * u;
    if (whole)
      store(out + i, product);
    else
      store_first(out + i, product, count);
  }
}

static float sum_squares_row(const float* x, int64_t n) {
  constexpr int kVecs = 64 / kLanes;
  Vec part[kVecs] = {};
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    for (int c = 0; c < kVecs; ++c) part[c] = fmadd(load(x + i + c * kLanes), load(x + i + c * kLanes), part[c]);
  }
  float tail[64] = {};
  memcpy(tail, x + i, static_cast<size_t>(n - i) * sizeof(float));
  for (int c = 0; c < kVecs; ++c) part[c] = fmadd(load(tail + c * kLanes), load(tail + c * kLanes), part[c]);
  for (int width = kVecs / 2; width > 0; width /= 2) {
    for (int c = 0; c < width; ++c) part[c] += part[c + width];
  }
  return reduce_add(part[0]);
}

static int64_t argmax_row(const float* x, int64_t n) {
  constexpr int kVecs = 64 / kLanes;
  Vec part[kVecs];
  for (int c = 0; c < kVecs; ++c) part[c] = splat(-INFINITY);
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    for (int c = 0; c < kVecs; ++c) part[c] = maximum(load(x + i + c * kLanes), part[c]);  // keeps part[c] where x is NaN
  }
  float best = -INFINITY;
  for (int c = 0; c < kVecs; ++c) {
    const float largest = reduce_max(part[c]);
    best = largest > best ? largest : best;
  }
  for (; i < n; ++i) best = x[i] > best ? x[i] : best;
  if (best == -INFINITY) return 0;
  int64_t first = 0;
  for (; first + 64 <= n; first += 64) {  // runs without a match are skipped whole
    VecInt found = {};
    for (int c = 0; c < kVecs; ++c) found |= load(x + first + c * kLanes) == splat(best);
    int32_t any = 0;
    for (int lane = 0; lane < kLanes; ++lane) any |= found[lane];
    if (any != 0) break;
  }
  while (x[first] != best) ++first;
  return first;
}

static double sum_exp_row(const float* x, int64_t n, float max) {
  double part[16] = {};
  for (int64_t i = 0; i < n; i += 256) {
    double e[256];
    const int64_t count = n - i < 256 ? n - i : 256;
    for (int64_t j = 0; j < count; ++j) e[j] = exp_f64(static_cast<double>(x[i + j]) - max);
    for (int64_t j = count; j < 256; ++j) e[j] = 0;
    for (int j = 0; j < 256; j += 16) {
      for (int lane = 0; lane < 16; ++lane) part[lane] += e[j + lane];
    }
  }
  for (int width = 8; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) part[lane] += part[lane + width];
  }
  return part[0];
}

static SoftmaxPair softmax_pair_row(const float* reference, float reference_max, const float* logits, float logits_max,
                                    int64_t n) {
  SoftmaxPair sums;
  for (int64_t i = 0; i < n; i += 256) {
    double p[256], q[256], gap[256];
    const int64_t count = n - i < 256 ? n - i : 256;
    for (int64_t j = 0; j < count; ++j) {
      const double a = static_cast<double>(reference[i + j]) - reference_max, b = static_cast<double>(logits[i + j]) - logits_max;
      const double e = exp_f64(a), term = e * (a - b);
      p[j] = e;
      q[j] = exp_f64(b);
      gap[j] = e == 0.0 ? 0.0 : term;  // p = 0 adds nothing, even where the other side is -inf
    }
    for (int64_t j = 0; j < count; ++j) {
      sums.reference_sum += p[j];
      sums.logits_sum += q[j];
      sums.weighted_gap += gap[j];
    }
  }
  return sums;
}

static void weigh_row(const float* x, int64_t n, float max, double inv_temperature, double buckets_per_unit, int32_t last_bucket,
                      double* weight, int32_t* bucket) {
  for (int64_t i = 0; i < n; ++i) {
    const double gap = x[i] == max ? 0.0 : (static_cast<double>(max) - x[i]) * inv_temperature;
    const double finite = gap <= 1e6 ? gap : 1e6;  // infinity and NaN weigh nothing
    weight[i] = exp_f64(-finite);
    const double scaled = finite * buckets_per_unit;
    bucket[i] = static_cast<int32_t>(scaled < last_bucket ? scaled : last_bucket);
  }
}

constexpr RowOps kRowOps = {load_row,        store_row,  add_rows,    scale_mul_row,    silu_mul_row,
                            sum_squares_row, argmax_row, sum_exp_row, softmax_pair_row, weigh_row};

}  // namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE
