// Attention of few query rows (decode): K and V stream through the registers once per block of rows, lanes along head_dim,
// nothing packed.
//
// Rows go in blocks of 4, 2 or 1; a block's dot products with kLanes / rows keys at a time fill one vector of scores. While a
// tile is computed the next one is prefetched, line by line, so that memory never waits for arithmetic.
#pragma once

namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE {

// Lane i of the result = the sum of the lanes of x[i]: each stage adds halves of two vectors into one.
template <int kStep>
KVASIR_INLINE void add_stage(Vec* x) {
  VecInt low = {}, high = {};
  for (int lane = 0; lane < kLanes; ++lane) {
    const bool second = (lane & kStep) != 0;
    low[lane] = second ? kLanes + lane - kStep : lane;
    high[lane] = second ? kLanes + lane : lane + kStep;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kStep; ++i) x[i] = __builtin_shuffle(x[i], x[i + kStep], low) + __builtin_shuffle(x[i], x[i + kStep], high);
}
KVASIR_INLINE Vec add_each(Vec (&x)[kLanes]) {
  if constexpr (kLanes > 8) add_stage<8>(x);
  if constexpr (kLanes > 4) add_stage<4>(x);
  add_stage<2>(x);
  add_stage<1>(x);
  return x[0];
}

// scores[r][key] = q[r] . k[key] for kRows rows; q is [kRows][dim] f32 in pair order, dim a multiple of kPanel.
template <class T, int kRows>
void stream_scores(const float* q, const T* const* k_rows, const T* const* k_next, int64_t dim, float* scores) {
  constexpr int kKeys = kLanes / kRows;
  for (int j = 0; j < kKeyTile; j += kKeys) {
    Vec acc[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) acc[i] = Vec{};
    for (int64_t d = 0; d < dim; d += kPanel) {
      Pair x[kRows];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) x[r] = {load(q + r * dim + d), load(q + r * dim + d + kLanes)};
#pragma GCC unroll 16
      for (int key = 0; key < kKeys; ++key) {
        const Pair y = load_pair(k_rows[j + key] + d);
        __builtin_prefetch(k_next[j + key] + d, 0, 2);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          Vec& sum = acc[r * kKeys + key];
          sum = fmadd(x[r].second, y.second, fmadd(x[r].first, y.first, sum));
        }
      }
    }
    const Vec sums = add_each(acc);
    for (int r = 0; r < kRows; ++r)
      memcpy(scores + r * kKeyTile + j, reinterpret_cast<const float*>(&sums) + r * kKeys, kKeys * 4);
  }
}

// o[r] = alpha[r] * o[r] + sum_key p[r][key] v[key] for kRows rows and kPairs pairs of columns; o is in pair order.
template <class T, int kRows, int kPairs>
void stream_values(const float* p, const T* const* v_rows, const T* const* v_next, int64_t column, float* o, int64_t o_stride,
                   const float* alpha) {
  Pair acc[kRows][kPairs];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kPairs; ++c) {
      const float* from = o + r * o_stride + column + c * kPanel;
      acc[r][c] = {load(from) * alpha[r], load(from + kLanes) * alpha[r]};
    }
  }
  for (int j = 0; j < kKeyTile; ++j) {
    Pair y[kPairs];
#pragma GCC unroll 4
    for (int c = 0; c < kPairs; ++c) {
      y[c] = load_pair(v_rows[j] + column + c * kPanel);
      __builtin_prefetch(v_next[j] + column + c * kPanel, 0, 2);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Vec x = splat(p[r * kKeyTile + j]);
#pragma GCC unroll 4
      for (int c = 0; c < kPairs; ++c) {
        acc[r][c].first = fmadd(x, y[c].first, acc[r][c].first);
        acc[r][c].second = fmadd(x, y[c].second, acc[r][c].second);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kPairs; ++c) {
      float* to = o + r * o_stride + column + c * kPanel;
      store(to, acc[r][c].first);
      store(to + kLanes, acc[r][c].second);
    }
  }
}

template <class T, int kRows>
void stream_all_values(const float* p, const T* const* v_rows, const T* const* v_next, int64_t dim, float* o, int64_t o_stride,
                       const float* alpha) {
  constexpr int kWide = kLanes == 16 ? (kRows == 4 ? 2 : 4) : (kRows == 1 ? 2 : 1);
  int64_t column = 0;
  for (; column + kWide * kPanel <= dim; column += kWide * kPanel) {
    stream_values<T, kRows, kWide>(p, v_rows, v_next, column, o, o_stride, alpha);
  }
  for (; column < dim; column += kPanel) stream_values<T, kRows, 1>(p, v_rows, v_next, column, o, o_stride, alpha);
}

}  // namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE
