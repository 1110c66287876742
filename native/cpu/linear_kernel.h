// The matrix product for one instruction set. Both operands lie along K, so a register tile is kTileRows x 4 dot products, each
// summed in the lanes of one vector, in rising order of K, and the lanes are added at the end in a fixed tree. That order depends
// on dtype and K alone, so a row's bits do not depend on the batch, on the blocks or on the threads; between K blocks the lanes
// rest in memory unrounded.
//
// 16-bit operands are widened to f32: of rows that fill at most one tile, on the way from the weights to the registers; else a
// block at a time. With kHasBf16Dot, bf16 is multiplied as it is, in pairs. Sizes: a K block is 2 KB of f32, so that a group of
// row tiles (24 KB) and the current 4 weight rows (8 KB) stay in the first-level cache, and a task's block of both and its sums
// in the second.
#pragma once
#include <algorithm>
#include <type_traits>

#include "linear.h"

namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE {

constexpr int kTileRows = kLanes == 16 ? 6 : 3;  // 24 of 32 registers hold sums, or 12 of 16
constexpr int kTileColumns = 4;
constexpr int kGroupTiles = 2;
constexpr int64_t kBlockRows = 96, kBlockColumns = 64;
constexpr int64_t kFewColumns = 32;  // of a task when one tile holds all rows
constexpr int64_t kBlockK = 512;     // elements

typedef float Quad __attribute__((vector_size(16)));

// How elements of type T become factors of type F (F = T: as they are): `step` elements give `kParts` vectors.
template <class T, class F>
struct Factors {
  static constexpr int kParts = 1;
  static constexpr int64_t kStep = kLanes;
  KVASIR_INLINE void get(const T* p, Vec (&part)[1]) { part[0] = load(p); }
};
// bf16 to f32: the even elements, then the odd ones, because a pair comes apart with a shift and a mask.
template <>
struct Factors<bf16_t, float> {
  static constexpr int kParts = 2;
  static constexpr int64_t kStep = 2 * kLanes;
  KVASIR_INLINE void get(const bf16_t* p, Vec (&part)[2]) {
    const auto pairs = load_raw<VecBits>(p);
    part[0] = vec_of(pairs << 16);
    part[1] = vec_of(pairs & 0xffff0000u);
  }
};
template <>
struct Factors<bf16_t, bf16_t> {
  static constexpr int kParts = 1;
  static constexpr int64_t kStep = 2 * kLanes;
  KVASIR_INLINE void get(const bf16_t* p, Vec (&part)[1]) { part[0] = load_raw<Vec>(p); }
};

KVASIR_INLINE Vec multiply_add(float, Vec a, Vec b, Vec sum) { return fmadd(a, b, sum); }
#if defined(KVASIR_SIMD_AVX512_BF16)
KVASIR_INLINE Vec multiply_add(bf16_t, Vec a, Vec b, Vec sum) { return dot_bf16(sum, bits_of(a), bits_of(b)); }
#endif

// sums[m][n] += x row m · w[n] over `steps` steps of W; x is in factors already.
template <int M, class F, class W>
static inline void add_products(const F* x, int64_t x_stride, const W* const* w, int64_t steps, bool first, Vec* sums) {
  using Source = Factors<W, F>;
  constexpr int kParts = Source::kParts;
  constexpr int64_t kFactors = sizeof(Vec) / sizeof(F);  // of one vector
  Vec sum[M][kTileColumns];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int n = 0; n < kTileColumns; ++n) sum[m][n] = first ? Vec{} : sums[m * kTileColumns + n];
  }
  const W *w0 = w[0], *w1 = w[1], *w2 = w[2], *w3 = w[3];
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t k = step * Source::kStep;
    Vec b0[kParts], b1[kParts], b2[kParts], b3[kParts];
    Source::get(w0 + k, b0);
    Source::get(w1 + k, b1);
    Source::get(w2 + k, b2);
    Source::get(w3 + k, b3);
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part) {
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const auto a = load_raw<Vec>(x + m * x_stride + (step * kParts + part) * kFactors);
        sum[m][0] = multiply_add(F{}, a, b0[part], sum[m][0]);
        sum[m][1] = multiply_add(F{}, a, b1[part], sum[m][1]);
        sum[m][2] = multiply_add(F{}, a, b2[part], sum[m][2]);
        sum[m][3] = multiply_add(F{}, a, b3[part], sum[m][3]);
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int n = 0; n < kTileColumns; ++n) sums[m * kTileColumns + n] = sum[m][n];
  }
}

template <class F, class W>
static inline void add_products(int rows, const F* x, int64_t x_stride, const W* const* w, int64_t steps, bool first, Vec* sums) {
  switch (rows) {
    case 1: return add_products<1>(x, x_stride, w, steps, first, sums);
    case 2: return add_products<2>(x, x_stride, w, steps, first, sums);
    case 3: return add_products<3>(x, x_stride, w, steps, first, sums);
    default: break;
  }
  if constexpr (kTileRows > 3) {
    switch (rows) {
      case 4: return add_products<4>(x, x_stride, w, steps, first, sums);
      case 5: return add_products<5>(x, x_stride, w, steps, first, sums);
      default: return add_products<6>(x, x_stride, w, steps, first, sums);
    }
  }
}

// The lanes of four vectors, each added up.
KVASIR_INLINE Quad add_lanes(const Vec* v) {
  VecInt low, high, low_pair, high_pair;
  for (int i = 0; i < kLanes; ++i) {
    const int quad = i / 4 * 4, j = i % 4;
    low[i] = quad + j / 2 + j % 2 * kLanes;
    high[i] = low[i] + 2;
    low_pair[i] = quad + j % 2 + j / 2 * kLanes;
    high_pair[i] = low_pair[i] + 2;
  }
  const Vec a = __builtin_shuffle(v[0], v[1], low) + __builtin_shuffle(v[0], v[1], high);
  const Vec b = __builtin_shuffle(v[2], v[3], low) + __builtin_shuffle(v[2], v[3], high);
  const Vec all = __builtin_shuffle(a, b, low_pair) + __builtin_shuffle(a, b, high_pair);
  Quad part[kLanes / 4];
  memcpy(part, &all, sizeof all);
  if constexpr (kLanes == 16)
    return (part[0] + part[2]) + (part[1] + part[3]);
  else if constexpr (kLanes == 8)
    return part[0] + part[1];
  else
    return part[0];
}

constexpr int64_t padded_depth(int64_t depth) { return (depth + 2 * kLanes - 1) / (2 * kLanes) * (2 * kLanes); }

// `count` elements as factors, zeros up to a whole step.
template <class T, class F>
static inline void put_factors(const T* from, int64_t count, F* to) {
  using Source = Factors<T, F>;
  constexpr int64_t kFactors = sizeof(Vec) / sizeof(F);
  Vec part[Source::kParts];
  for (int64_t k = 0; k < count; k += Source::kStep) {
    if (k + Source::kStep <= count) {
      Source::get(from + k, part);
    } else {
      T padded[Source::kStep] = {};
      memcpy(padded, from + k, static_cast<size_t>(count - k) * sizeof(T));
      Source::get(padded, part);
    }
    for (int i = 0; i < Source::kParts; ++i, to += kFactors) store_raw(to, part[i]);
  }
}

struct Scratch {
  float* result;  // [block rows][block columns]
  float* bias;    // [block columns]
  Vec* sums;      // [block rows rounded up to tiles][block columns]
  float* x;       // factors, [block rows][kBlockK], or [rows][padded depth] when one tile holds all rows
  float* w;       // factors, [block columns][kBlockK]
};

static inline size_t lay_out(const LinearBlocks& blocks, int64_t depth, char* base, Scratch* scratch) {
  size_t used = 0;
  const auto take = [&](int64_t elements, size_t bytes) {
    char* at = base + used;
    used += (static_cast<size_t>(elements) * bytes + 63) & ~size_t{63};
    return at;
  };
  const int64_t tiled = (blocks.rows + kTileRows - 1) / kTileRows * kTileRows;
  scratch->result = reinterpret_cast<float*>(take(blocks.rows * blocks.columns, sizeof(float)));
  scratch->bias = reinterpret_cast<float*>(take(blocks.columns, sizeof(float)));
  scratch->sums = reinterpret_cast<Vec*>(take(tiled * blocks.columns, sizeof(Vec)));
  scratch->x = reinterpret_cast<float*>(take(blocks.rows * (blocks.few_rows ? padded_depth(depth) : kBlockK), sizeof(float)));
  scratch->w = reinterpret_cast<float*>(take(blocks.few_rows ? 0 : blocks.columns * kBlockK, sizeof(float)));
  return used;
}

static LinearBlocks blocks(const kvasir_linear_args& args) {
  const int64_t rows = args.x.shape[0], depth = args.x.shape[1];
  const int64_t columns = (args.weight.shape[0] + kTileColumns - 1) / kTileColumns * kTileColumns;
  LinearBlocks result;
  result.few_rows = rows <= kTileRows;
  result.rows = std::min(rows, kBlockRows);
  result.columns = std::min(columns, result.few_rows ? kFewColumns : kBlockColumns);
  if (result.few_rows && rows * columns * depth <= int64_t{1} << 15) result.columns = columns;  // not worth a second thread
  Scratch scratch;
  result.scratch_bytes = lay_out(result, depth, nullptr, &scratch);
  return result;
}

struct Extent {
  int64_t rows, columns, depth, x_stride, w_stride;
};

static inline void add_tile(const Scratch& scratch, const LinearBlocks& blocks, int rows, int64_t m, int64_t n, const Vec* sums) {
  for (int i = 0; i < rows; ++i) {
    const Quad quad = add_lanes(sums + i * kTileColumns);
    memcpy(scratch.result + (m + i) * blocks.columns + n, &quad, sizeof quad);
  }
}

// One tile of rows: x becomes factors once, every weight row is read where it lies from end to end.
template <class F, class T>
static inline void multiply_few(const T* x, const T* w, const Extent& extent, const LinearBlocks& blocks,
                                const Scratch& scratch) {
  using Source = Factors<T, F>;
  auto* factors = reinterpret_cast<F*>(scratch.x);
  const int64_t stride = padded_depth(extent.depth), whole = extent.depth / Source::kStep, rest = extent.depth % Source::kStep;
  for (int64_t m = 0; m < extent.rows; ++m) put_factors(x + m * extent.x_stride, extent.depth, factors + m * stride);
  const int rows = static_cast<int>(extent.rows);
  for (int64_t n = 0; n < extent.columns; n += kTileColumns) {
    const T* w_rows[kTileColumns];
    for (int64_t i = 0; i < kTileColumns; ++i) w_rows[i] = w + std::min(n + i, extent.columns - 1) * extent.w_stride;
    add_products(rows, factors, stride, w_rows, whole, true, scratch.sums);
    if (rest != 0) {
      T padded[kTileColumns][Source::kStep] = {};
      const T* padded_rows[kTileColumns];
      for (int i = 0; i < kTileColumns; ++i) {
        memcpy(padded[i], w_rows[i] + whole * Source::kStep, static_cast<size_t>(rest) * sizeof(T));
        padded_rows[i] = padded[i];
      }
      add_products(rows, factors + whole * Source::kParts * (sizeof(Vec) / sizeof(F)), stride, padded_rows, 1, false,
                   scratch.sums);
    }
    add_tile(scratch, blocks, rows, 0, n, scratch.sums);
  }
}

// Rows [0, rows) of a K block as factors: where they lie if they are factors already and make whole vectors, else packed.
template <class F, class T>
static inline const F* block_of(const T* from, int64_t stride, int64_t rows, int64_t count, float* buffer, int64_t* out_stride) {
  if constexpr (std::is_same_v<T, F>) {
    if (count % Factors<T, F>::kStep == 0) {
      *out_stride = stride;
      return from;
    }
  }
  auto* factors = reinterpret_cast<F*>(buffer);
  for (int64_t row = 0; row < rows; ++row) put_factors(from + row * stride, count, factors + row * kBlockK);
  *out_stride = kBlockK;
  return factors;
}

// Blocks of K, each used for all rows before the next.
template <class F, class T>
static inline void multiply_many(const T* x, const T* w, const Extent& extent, const LinearBlocks& blocks,
                                 const Scratch& scratch) {
  constexpr int64_t kStep = Factors<F, F>::kStep;
  for (int64_t begin = 0; begin < extent.depth || begin == 0; begin += kBlockK) {
    const int64_t count = std::min(kBlockK, extent.depth - begin);
    const int64_t padded = (count + Factors<T, F>::kStep - 1) / Factors<T, F>::kStep * Factors<T, F>::kStep;
    int64_t x_stride, w_stride;
    const F* x_block = block_of<F>(x + begin, extent.x_stride, extent.rows, count, scratch.x, &x_stride);
    const F* w_block = block_of<F>(w + begin, extent.w_stride, extent.columns, count, scratch.w, &w_stride);
    for (int64_t group = 0; group < extent.rows; group += kGroupTiles * kTileRows) {
      for (int64_t n = 0; n < extent.columns; n += kTileColumns) {
        const F* w_rows[kTileColumns];
        for (int64_t i = 0; i < kTileColumns; ++i) w_rows[i] = w_block + std::min(n + i, extent.columns - 1) * w_stride;
        for (int64_t m = group; m < std::min(extent.rows, group + kGroupTiles * kTileRows); m += kTileRows) {
          const int rows = static_cast<int>(std::min<int64_t>(kTileRows, extent.rows - m));
          Vec* sums = scratch.sums + m * blocks.columns + n * kTileRows;
          add_products(rows, x_block + m * x_stride, x_stride, w_rows, padded / kStep, begin == 0, sums);
          if (begin + kBlockK >= extent.depth) add_tile(scratch, blocks, rows, m, n, sums);
        }
      }
    }
  }
}

template <class T, class Out>
static inline void write_out(const kvasir_linear_args& args, const Extent& extent, const LinearBlocks& blocks,
                             const Scratch& scratch, int64_t row, int64_t column) {
  const bool biased = args.bias.rank != 0;
  if (biased) {
    const T* bias = static_cast<const T*>(args.bias.data) + column;
    for (int64_t n = 0; n < extent.columns; ++n) scratch.bias[n] = to_float(bias[n]);
  }
  for (int64_t m = 0; m < extent.rows; ++m) {
    float* result = scratch.result + m * blocks.columns;
    for (int64_t n = 0; biased && n < extent.columns; ++n) result[n] += scratch.bias[n];
    Out* out = static_cast<Out*>(args.out.data) + (row + m) * args.out.stride[0] + column;
    int64_t n = 0;
    for (; n + kLanes <= extent.columns; n += kLanes) store(out + n, load(result + n));
    for (; n < extent.columns; ++n) out[n] = from_float<Out>(result[n]);
  }
}

template <class F, class T>
static void run_as(const kvasir_linear_args& args, const LinearBlocks& blocks, int64_t row, int64_t column, void* base) {
  const Extent extent = {std::min(blocks.rows, args.x.shape[0] - row), std::min(blocks.columns, args.weight.shape[0] - column),
                         args.x.shape[1], args.x.stride[0], args.weight.stride[0]};
  Scratch scratch;
  lay_out(blocks, extent.depth, static_cast<char*>(base), &scratch);
  const T* x = static_cast<const T*>(args.x.data) + row * extent.x_stride;
  const T* w = static_cast<const T*>(args.weight.data) + column * extent.w_stride;
  if (blocks.few_rows)
    multiply_few<F>(x, w, extent, blocks, scratch);
  else
    multiply_many<F>(x, w, extent, blocks, scratch);
  if (args.out.dtype == KVASIR_F32)
    write_out<T, float>(args, extent, blocks, scratch, row, column);
  else
    write_out<T, T>(args, extent, blocks, scratch, row, column);
}

static void run(const kvasir_linear_args& args, const LinearBlocks& blocks, int64_t row, int64_t column, void* scratch) {
  switch (args.x.dtype) {
    case KVASIR_F16: return run_as<float, f16_t>(args, blocks, row, column, scratch);
    case KVASIR_BF16: return run_as<std::conditional_t<kHasBf16Dot, bf16_t, float>, bf16_t>(args, blocks, row, column, scratch);
    default: return run_as<float, float>(args, blocks, row, column, scratch);
  }
}

constexpr LinearKernel kLinear = {blocks, run};

}  // namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE
