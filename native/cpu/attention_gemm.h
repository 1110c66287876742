// The two matrix products of a packed tile, from registers: S = Q K^T and O = O * alpha + P V.
//
// B is packed in panels of 2 * kLanes columns, [panel][depth][2 * kLanes] f32. The sum over depth runs in rising order whatever
// the number of rows in the block, so that a row's bits do not depend on its neighbours.
#pragma once

namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE {

constexpr int kPanel = 2 * kLanes;
constexpr int kBlockRows = kLanes == 16 ? 12 : 6;  // rows whose accumulators fit the registers beside two vectors of B
static_assert(kRowTile % kBlockRows == 0);

// c[r][0..kPanel) = alpha[r] * c + sum_k a(k, r) b[k]; a(k, r) = a[k * kStepK + r * kStepRow]. alpha == nullptr: c starts at 0.
template <int kRows, int kStepK, int kStepRow>
void multiply_block(const float* a, const float* b, int64_t depth, float* c, int64_t c_stride, const float* alpha) {
  Vec acc[kRows][2];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    acc[r][0] = alpha == nullptr ? Vec{} : load(c + r * c_stride) * alpha[r];
    acc[r][1] = alpha == nullptr ? Vec{} : load(c + r * c_stride + kLanes) * alpha[r];
  }
  for (int64_t k = 0; k < depth; ++k) {
    const Vec b0 = load(b + k * kPanel), b1 = load(b + k * kPanel + kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec x = splat(a[k * kStepK + r * kStepRow]);
      acc[r][0] = fmadd(x, b0, acc[r][0]);
      acc[r][1] = fmadd(x, b1, acc[r][1]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    store(c + r * c_stride, acc[r][0]);
    store(c + r * c_stride + kLanes, acc[r][1]);
  }
}

// The same for a number of rows known at run time, 1..kBlockRows.
template <int kStepK, int kStepRow, int kRows = kBlockRows>
void multiply_rows(int rows, const float* a, const float* b, int64_t depth, float* c, int64_t c_stride, const float* alpha) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return multiply_rows<kStepK, kStepRow, kRows - 1>(rows, a, b, depth, c, c_stride, alpha);
  }
  multiply_block<kRows, kStepK, kStepRow>(a, b, depth, c, c_stride, alpha);
}

// ---- packing
// ----------------------------------------------------------------------------------------------------------------------

// Two vectors of consecutive elements. bf16 splits into even and odd elements, which costs one shift and one mask; V is packed
// and O accumulated in that order, and `unpair` restores it at the end.
struct Pair {
  Vec first, second;
};
template <class T>
constexpr bool kIsBf16 = false;
template <>
inline constexpr bool kIsBf16<bf16_t> = true;
template <class T>
KVASIR_INLINE Pair load_pair(const T* p) {
  return {load(p), load(p + kLanes)};
}
template <>
inline __attribute__((always_inline)) Pair load_pair<bf16_t>(const bf16_t* p) {
  const VecBits raw = load_raw<VecBits>(p);
  return {vec_of(raw << 16), vec_of(raw & 0xffff0000u)};
}
template <class T>
KVASIR_INLINE Pair load_pair_first(const T* p, int64_t count) {
  T padded[kPanel] = {};
  memcpy(padded, p, count * sizeof(T));
  return load_pair(static_cast<const T*>(padded));
}

// The first `count` elements as they lie in memory, the rest zero.
template <class T>
KVASIR_INLINE VecBits load_raw_first(const T* p, int64_t count) {
  VecBits raw = {};
  memcpy(&raw, p, count * sizeof(T));
  return raw;
}

// The pair's elements in memory order.
template <class T>
KVASIR_INLINE void unpair(const Pair& pair, float* out) {
  store(out, pair.first);
  store(out + kLanes, pair.second);
}
template <>
inline __attribute__((always_inline)) void unpair<bf16_t>(const Pair& pair, float* out) {
  for (int i = 0; i < kLanes; ++i) {
    out[2 * i] = pair.first[i];
    out[2 * i + 1] = pair.second[i];
  }
}

// K rows -> panels [kKeyTile / kPanel][head_dim][kPanel]: a transposition of kLanes keys at a time. `next` are the rows to
// prefetch.
template <class T>
void pack_keys(const T* const* rows, const T* const* next, int64_t dim, float* packed) {
  constexpr bool kPairs = kIsBf16<T>;                   // bf16 is transposed two elements to a lane, then split
  constexpr int64_t kChunk = kPairs ? kPanel : kLanes;  // elements of a row per transposition
  for (int j = 0; j < kKeyTile; j += kLanes) {
    float* to = packed + (j / kPanel) * dim * kPanel + j % kPanel;
    for (int64_t d = 0; d < dim; d += kChunk) {
      VecBits square[kLanes];
      const bool whole = d + kChunk <= dim;
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        __builtin_prefetch(next[j + i] + d, 0, 2);
        if constexpr (kPairs) {
          square[i] = whole ? load_raw<VecBits>(rows[j + i] + d) : load_raw_first(rows[j + i] + d, dim - d);
        } else {
          square[i] = bits_of(whole ? load(rows[j + i] + d) : load_first(rows[j + i] + d, static_cast<int>(dim - d)));
        }
      }
      transpose(square);
      const int64_t left = dim - d;
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if constexpr (kPairs) {
          if (2 * i >= left) break;
          store(to + (d + 2 * i) * kPanel, vec_of(square[i] << 16));
          store(to + (d + 2 * i + 1) * kPanel, vec_of(square[i] & 0xffff0000u));
        } else {
          if (i >= left) break;
          store(to + (d + i) * kPanel, vec_of(square[i]));
        }
      }
    }
  }
}

// V rows -> panels [dim_padded / kPanel][kKeyTile][kPanel] in pair order; columns past head_dim are zero.
template <class T>
void pack_values(const T* const* rows, const T* const* next, int64_t dim, float* packed) {
  for (int64_t d = 0; d < dim; d += kPanel) {
    float* to = packed + d * kKeyTile;
    for (int j = 0; j < kKeyTile; ++j) {
      __builtin_prefetch(next[j] + d, 0, 2);
      const Pair pair = d + kPanel <= dim ? load_pair(rows[j] + d) : load_pair_first(rows[j] + d, dim - d);
      store(to + j * kPanel, pair.first);
      store(to + j * kPanel + kLanes, pair.second);
    }
  }
}

}  // namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE
