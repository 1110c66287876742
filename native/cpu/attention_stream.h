// Attention of few query rows (decode, speculative steps): every row of K and V is touched once, in the dtype it is stored in.
//   S: up to kDotRows rows: dot products with keys where they lie, lanes along head_dim (dot_scores). More rows, or
//      batch_invariant: the tile's keys are transposed to lane = key and left in L1 as they are stored, then multiplied
//      (stream_scores), with sums in the order of the packed product (attention_gemm.h): a row's bits do not tell which ran.
//   O: V is multiplied from where it lies, lanes along columns, in the order of the packed product.
//
// While a tile is computed the one after it is prefetched: evenly over the tile's arithmetic, so that memory always has about as
// much to do, and row by row in the order of memory, which the hardware's prefetchers pick up; by themselves they stop at the end
// of a page of the address space.
#pragma once
#include "attention_gemm.h"
#include "attention_tile.h"

namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE {

// Rows up to which a unit streams, and up to which dot products pay; measured. Fewer registers: packing pays sooner.
constexpr int kStreamRows = kLanes == 16 ? 48 : 8;
constexpr int kDotRows = kLanes == 16 ? 4 : 8;
constexpr int kDotBlock = 4;  // rows of a block of dot products
constexpr int kLine = 64;     // bytes that are prefetched at a time
constexpr int kVecBytes = kLanes * 4;

template <class T>
constexpr int kLaneElements = kIsBf16<T> ? 2 : 1;  // elements of head_dim that a lane of a transposed vector holds

// Hands out the prefetches of one tile: its K rows, then its V rows.
template <class T>
class Prefetch {
 public:
  // line_work: what the tile's arithmetic costs for each line of 64 bytes, in the unit that `done` counts.
  Prefetch(const KeyTile<T>& tile, int64_t dim, int64_t line_work)
      : tile_(tile), row_bytes_(dim * static_cast<int64_t>(sizeof(T))), row_work_((row_bytes_ + kLine - 1) / kLine * line_work) {}

  inline __attribute__((always_inline)) void done(int64_t work) {
    credit_ += work;
    while (credit_ >= row_work_ && at_ < 2 * kKeyTile) row();
  }
  void rest() {
    while (at_ < 2 * kKeyTile) row();
  }

  // Line by line instead, beside the loads of the same place in this tile: `none` leaves nothing to hand out.
  inline __attribute__((always_inline)) void k_line(int key, int64_t d) const { __builtin_prefetch(tile_.k_rows[key] + d, 0, 2); }
  inline __attribute__((always_inline)) void v_line(int key, int64_t column) const {
    __builtin_prefetch(tile_.v_rows[key] + column, 0, 2);
  }
  void none() { at_ = 2 * kKeyTile; }

 private:
  void row() {
    const char* row = reinterpret_cast<const char*>(at_ < kKeyTile ? tile_.k_rows[at_] : tile_.v_rows[at_ - kKeyTile]);
    int64_t byte = 0;
    for (; byte + 2 * kLine <= row_bytes_; byte += 2 * kLine) {
      __builtin_prefetch(row + byte, 0, 2);
      __builtin_prefetch(row + byte + kLine, 0, 2);
    }
    for (; byte < row_bytes_; byte += kLine) __builtin_prefetch(row + byte, 0, 2);
    credit_ -= row_work_;
    ++at_;
  }

  const KeyTile<T>& tile_;
  const int64_t row_bytes_, row_work_;
  int64_t credit_ = 0;
  int at_ = 0;
};

// Elements of 16 bits under dot products are prefetched line by line: a panel of them is one line, and so little arithmetic goes
// with it that counting shares costs more than it evens out.
template <class T>
constexpr bool kLineByLine = sizeof(T) == 2 && kLanes == 16;

// Work per line in cycles or so: shuffles of a transposition; multiply-adds of `rows` rows.
constexpr int kTransposeWork = 4;
constexpr int64_t multiply_work(int64_t rows) { return rows + 1; }

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

// scores[r][key] = q[r] . k[key] for kRows rows, a power of 2; q is [kRows][dim] in pair order, dim a multiple of kPanel.
template <class T, int kRows>
void dot_scores(const float* q, const T* const* k_rows, int64_t dim, Prefetch<T>& next, float* scores) {
  constexpr int kKeys = kLanes / kRows, kLines = kKeys * kPanel * static_cast<int>(sizeof(T)) / kLine;
  constexpr bool kOften = kLines >= 4;  // else a share would be too small to be worth its counting
  for (int j = 0; j < kKeyTile; j += kKeys) {
    Vec acc[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) acc[i] = Vec{};
    for (int64_t d = 0; d < dim; d += kPanel) {
      Pair x[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) x[r] = {load(q + r * dim + d), load(q + r * dim + d + kLanes)};
#pragma GCC unroll 16
      for (int key = 0; key < kKeys; ++key) {
        const Pair y = load_pair(k_rows[j + key] + d);
        if constexpr (kLineByLine<T>) next.k_line(j + key, d);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          Vec& sum = acc[r * kKeys + key];
          sum = fmadd(x[r].second, y.second, fmadd(x[r].first, y.first, sum));
        }
      }
      if constexpr (kOften && !kLineByLine<T>) next.done(kLines * multiply_work(kRows));
    }
    if constexpr (!kOften && !kLineByLine<T>)
      next.done(kKeys * dim * static_cast<int64_t>(sizeof(T)) / kLine * multiply_work(kRows));
    const Vec sums = add_each(acc);
    for (int r = 0; r < kRows; ++r)
      memcpy(scores + r * kKeyTile + j, reinterpret_cast<const float*>(&sums) + r * kKeys, kKeys * 4);
  }
}

// Rows of K -> [kKeyTile / kLanes][stride] vectors, lane = key.
template <class T>
void transpose_keys(const T* const* rows, int64_t dim, Prefetch<T>& next, VecBits* keys, int64_t stride) {
  constexpr int kChunk = kLanes * kLaneElements<T>;
  for (int j = 0; j < kKeyTile; j += kLanes) {
    VecBits* out = keys + j / kLanes * stride;
    for (int64_t d = 0; d < dim; d += kChunk) {
      VecBits square[kLanes];
      if (d + kChunk <= dim) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          if constexpr (kIsBf16<T>) {
            square[i] = load_raw<VecBits>(rows[j + i] + d);
          } else {
            square[i] = bits_of(load(rows[j + i] + d));
          }
        }
      } else {
        for (int i = 0; i < kLanes; ++i) {
          if constexpr (kIsBf16<T>) {
            square[i] = load_raw_first(rows[j + i] + d, dim - d);
          } else {
            square[i] = bits_of(load_first(rows[j + i] + d, static_cast<int>(dim - d)));
          }
        }
      }
      transpose(square);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) *out++ = square[i];
      next.done(kTransposeWork * kLanes * kVecBytes / kLine);
    }
  }
}

// scores[r][key] = q[r] . k[key] for kRows rows; element d of row r is q[d * kBlockRows + r], and keys are as transpose_keys
// leaves them.
template <class T, int kRows>
void stream_scores(const float* q, const VecBits* keys, int64_t stride, int64_t dim, Prefetch<T>& next, float* scores) {
  constexpr int kGroups = kLanes == 16 ? (kRows <= 4 ? 4 : 2) : (kRows <= 3 ? 4 : 2);  // enough chains to hide a multiply-add
  constexpr int kWidth = kLaneElements<T>;
  constexpr int kStep = 8;  // head_dim is a multiple of it
  static_assert(kKeyTile % (kGroups * kLanes) == 0);
  for (int j = 0; j < kKeyTile; j += kGroups * kLanes, keys += kGroups * stride) {
    Vec acc[kGroups][kRows] = {};
    for (int64_t d = 0; d < dim; d += kStep) {
      const VecBits* raw = keys + d / kWidth;
#pragma GCC unroll 8
      for (int e = 0; e < kStep; ++e) {
        Vec k[kGroups];
#pragma GCC unroll 4
        for (int g = 0; g < kGroups; ++g) {
          const VecBits x = raw[g * stride + e / kWidth];
          k[g] = vec_of(kWidth == 1 ? x : e % 2 == 0 ? x << 16 : x & 0xffff0000u);
        }
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const Vec x = splat(q[(d + e) * kBlockRows + r]);
#pragma GCC unroll 4
          for (int g = 0; g < kGroups; ++g) acc[g][r] = fmadd(x, k[g], acc[g][r]);
        }
      }
      next.done(kGroups * kStep / kWidth * kVecBytes / kLine * multiply_work(kRows));
    }
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) {
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) store(scores + r * kKeyTile + j + g * kLanes, acc[g][r]);
    }
  }
}

// o[r] = alpha[r] * o[r] + sum_key p[r][key] v[key] for kRows rows and kPairs pairs of columns, the last of which ends after
// `left` elements; o is in pair order.
template <class T, int kRows, int kPairs, bool kWhole, bool kLines>
void stream_values(const float* p, const T* const* v_rows, int64_t column, int64_t left, Prefetch<T>& next, float* o,
                   int64_t o_stride, const float* alpha) {
  Pair acc[kRows][kPairs];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kPairs; ++c) {
      const float* from = o + r * o_stride + column + c * kPanel;
      acc[r][c] = {load(from) * alpha[r], load(from + kLanes) * alpha[r]};
    }
  }
  constexpr int kUnroll = kLanes == 16 ? 4 : 1;  // elsewhere the registers are all taken
  constexpr int kStep = kLanes == 16 ? 4 : 16;   // keys of a share of prefetches
  for (int j = 0; j < kKeyTile; j += kUnroll) {
#pragma GCC unroll 4
    for (int i = j; i < j + kUnroll; ++i) {
      Pair y[kPairs];
#pragma GCC unroll 4
      for (int c = 0; c < kPairs; ++c) {
        const T* from = v_rows[i] + column + c * kPanel;
        y[c] = kWhole ? load_pair(from) : load_pair_first(from, left);
        if constexpr (kLines) next.v_line(i, column + c * kPanel);
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const Vec x = splat(p[r * kKeyTile + i]);
#pragma GCC unroll 4
        for (int c = 0; c < kPairs; ++c) {
          acc[r][c].first = fmadd(x, y[c].first, acc[r][c].first);
          acc[r][c].second = fmadd(x, y[c].second, acc[r][c].second);
        }
      }
    }
    if (!kLines && (j + kUnroll) % kStep == 0) {
      next.done(kStep * kPairs * kPanel * static_cast<int64_t>(sizeof(T)) / kLine * multiply_work(kRows));
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kPairs; ++c) {
      float* to = o + r * o_stride + column + c * kPanel;
      store(to, acc[r][c].first);
      store(to + kLanes, acc[r][c].second);
    }
  }
}

template <class T, int kRows, bool kLines>
void stream_all_values(const float* p, const T* const* v_rows, int64_t dim, Prefetch<T>& next, float* o, int64_t o_stride,
                       const float* alpha) {
  constexpr int kWide = kLanes == 16 ? (kRows <= 2 ? 4 : kRows <= 4 ? 2 : 1) : (kRows == 1 ? 2 : 1);
  int64_t column = 0;
  for (; column + kWide * kPanel <= dim; column += kWide * kPanel) {
    stream_values<T, kRows, kWide, true, kLines>(p, v_rows, column, 0, next, o, o_stride, alpha);
  }
  for (; column + kPanel <= dim; column += kPanel) {
    stream_values<T, kRows, 1, true, kLines>(p, v_rows, column, 0, next, o, o_stride, alpha);
  }
  if (column < dim) stream_values<T, kRows, 1, false, kLines>(p, v_rows, column, dim - column, next, o, o_stride, alpha);
}

}  // namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE
