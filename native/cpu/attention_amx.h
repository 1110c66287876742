// Attention by AMX tiles (bf16): K and V go from where they lie into tile registers, in their order.
//   S^T = K Q^T: the left operand is 16 keys x 32 elements; the right one holds pairs of elements of 16 query rows.
//   O = P V:     16 keys x 32 columns of V are the right operand. A row of it holds pairs of columns where the instruction
//   expects
//                pairs of keys, so that a left row (p, 0, p, 0 ...) gives the sums of the even columns and (0, p, 0, p ...) those
//                of the odd ones. p enters as the sum of two bf16 numbers, 16 bits of it: 4 left rows for a query row, and the
//                left operand is full with kAmxRows of them.
// Sums are f32. The instruction takes subnormal numbers for zero, and an infinite or NaN element of V makes its pair NaN as well.
// Products are as long as loads of tiles: prefetches are handed out beside them (attention_stream.h).
//
// What bounds a unit of few rows is the number of lines that a core can wait for: one is taken while a prefetch brings a line to
// L2, and again, for shorter, while a load of a tile brings it to L1. Hence tileloaddt1 where a tile is read once.
#pragma once
#include "attention_stream.h"
#include "attention_tile.h"

namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE {

// Units of fewer rows are left to dot products (attention_stream.h), which come as near to the speed of memory.
constexpr int kFewestAmxRows = 3;

// Elements and instruction sets that have no tiles.
template <class T>
struct AmxTiles {
  static constexpr bool kAvailable = false;
  static size_t bytes(int64_t) { return 0; }
  AmxTiles(int64_t, int64_t, void*) {}
};

#if defined(KVASIR_SIMD_AVX512)

constexpr int kAmxRows = 4;                       // query rows of a block of P
constexpr int kAmxKeys = 16;                      // keys of a tile of K or V
constexpr int kAmxStripes = kKeyTile / kAmxKeys;  // tiles that a key tile is high
constexpr int kAmxTile = kAmxKeys * kLanes;       // 32-bit numbers of a tile register

// Tile registers: S, then P, in 0 to 3; Q, then O, in 4; K, then V, in 5. All are 16 rows of 64 bytes.
struct alignas(64) AmxConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16};
};

// Assembly, because GCC's intrinsics do not tell the compiler that a load reads memory. No compiler allocates tile registers.
KVASIR_INLINE void amx_configure(const AmxConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config)); }
KVASIR_INLINE void amx_release() { asm volatile("tilerelease"); }
template <int kTile>
KVASIR_INLINE void amx_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
template <int kTile>
KVASIR_INLINE void amx_load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile) : "memory");
}
// The same, but what is read need not stay in L1.
template <int kTile>
KVASIR_INLINE void amx_stream(const void* from, int64_t stride) {
  asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
KVASIR_INLINE void amx_store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(kTile) : "memory");
}
// kSum += kLeft kRight
template <int kSum, int kLeft, int kRight>
KVASIR_INLINE void amx_multiply() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kLeft), "i"(kRight));
}

// The tiles of one task, in a thread's scratch. dim is a multiple of kPanel.
template <>
struct AmxTiles<bf16_t> {
  static constexpr bool kAvailable = true;

  // kAmxKeys rows evenly spaced in memory.
  struct Stripe {
    const bf16_t* first;
    int64_t stride;  // bytes
  };

  const int64_t dim, rows, panels;
  const int64_t columns, blocks;  // tiles that Q is wide, and that P is high
  uint32_t* const q;              // [columns][panels][kPanel / 2][kLanes] pairs of elements
  float* const s;                 // [kKeyTile][kLanes]
  uint32_t* const p;              // [blocks][kAmxStripes][4][kAmxRows][kAmxKeys]: high and low part, each for even and odd
  float* const acc;               // [blocks][panels][4][kAmxRows][kLanes]
  bf16_t* const staged;           // [kKeyTile][dim]

  AmxTiles(int64_t head_dim, int64_t num_rows, void* scratch)
      : dim(head_dim),
        rows(num_rows),
        panels(dim / kPanel),
        columns((rows + kLanes - 1) / kLanes),
        blocks((rows + kAmxRows - 1) / kAmxRows),
        q(static_cast<uint32_t*>(scratch)),
        s(reinterpret_cast<float*>(q + columns * panels * kAmxTile)),
        p(reinterpret_cast<uint32_t*>(s + kAmxStripes * kAmxTile)),
        acc(reinterpret_cast<float*>(p + blocks * kAmxStripes * kAmxTile)),
        staged(reinterpret_cast<bf16_t*>(acc + blocks * panels * kAmxTile)) {}

  static size_t bytes(int64_t dim) {
    const AmxTiles most(dim, kRowTile, nullptr);
    return reinterpret_cast<size_t>(most.staged + kKeyTile * dim);
  }

  // Before the first query row is loaded; `finish` gives the tile registers back.
  void start() const {
    memset(q, 0, columns * panels * kAmxTile * sizeof *q);
    memset(p, 0, blocks * kAmxStripes * kAmxTile * sizeof *p);
    memset(acc, 0, blocks * panels * kAmxTile * sizeof *acc);
    amx_configure(AmxConfig{});
  }

  void load_query(int64_t r, const bf16_t* row) const {
    uint32_t* to = q + r / kLanes * panels * kAmxTile + r % kLanes;
    for (int64_t pair = 0; pair < dim / 2; ++pair) memcpy(to + pair * kLanes, row + 2 * pair, sizeof *to);
  }

  // A key tile's prefetches are handed out in shares: one a product, and one a row in each step of softmax.
  static void share(Prefetch<bf16_t>& next) { next.done(2 * kKeyTile); }
  int64_t line_work() const { return kAmxStripes * (columns + blocks) + (2 * rows + panels - 1) / panels; }

  // scores[r][key] = q[r] . k[key]; whole blocks of kAmxRows rows are written.
  void multiply_keys(const bf16_t* const* k_rows, Prefetch<bf16_t>& next, float* scores) const {
    Stripe k[kAmxStripes];
    for (int i = 0; i < kAmxStripes; ++i) k[i] = stripe(k_rows, i * kAmxKeys);
    for (int64_t column = 0; column < columns; ++column) {
      amx_zero<0>();
      amx_zero<1>();
      amx_zero<2>();
      amx_zero<3>();
      for (int64_t d = 0; d < panels; ++d) {
        amx_load<4>(q + (column * panels + d) * kAmxTile, kVecBytes);
        multiply_key_stripe<0>(k[0], d, next);
        multiply_key_stripe<1>(k[1], d, next);
        multiply_key_stripe<2>(k[2], d, next);
        multiply_key_stripe<3>(k[3], d, next);
      }
      amx_store<0>(s, kVecBytes);
      amx_store<1>(s + kAmxTile, kVecBytes);
      amx_store<2>(s + 2 * kAmxTile, kVecBytes);
      amx_store<3>(s + 3 * kAmxTile, kVecBytes);
      for (int64_t i = 0, r = column * kLanes; i < kLanes && r + i < rows; i += kAmxRows) {
        for (int j = 0; j < kKeyTile; j += kAmxKeys) transpose_rows(s + j * kLanes + i, scores + (r + i) * kKeyTile + j);
      }
    }
  }

  // Puts the probabilities of row r into P and multiplies the row's sums so far by alpha.
  void load_probabilities(int64_t r, const float* row, float alpha) const {
    constexpr int kPart = kAmxRows * kAmxKeys;
    const int64_t block = r / kAmxRows, i = r % kAmxRows;
    for (int stripe = 0; stripe < kAmxStripes; ++stripe) {
      uint32_t* to = p + (block * kAmxStripes + stripe) * kAmxTile + i * kAmxKeys;
      const Vec x = load(row + stripe * kAmxKeys);
      const VecBits high = bits_of(x) & 0xffff0000u, low = bits_of(x - vec_of(high));  // the difference is exact
      store_raw(to, high >> 16);
      store_raw(to + kPart, high);
      store_raw(to + 2 * kPart, low >> 16);
      store_raw(to + 3 * kPart, low & 0xffff0000u);
    }
    if (alpha == 1.0f) return;
    for (int64_t d = 0; d < panels; ++d) {
      for (int part = 0; part < 4; ++part) {
        float* sums = acc + (block * panels + d) * kAmxTile + (part * kAmxRows + i) * kLanes;
        store(sums, load(sums) * alpha);
      }
    }
  }

  // acc += P V
  void multiply_values(const bf16_t* const* v_rows, Prefetch<bf16_t>& next) const {
    Stripe v[kAmxStripes];
    for (int i = 0; i < kAmxStripes; ++i) v[i] = stripe(v_rows, i * kAmxKeys);
    for (int64_t block = 0; block < blocks; ++block) {
      const uint32_t* left = p + block * kAmxStripes * kAmxTile;
      amx_load<0>(left, kVecBytes);
      amx_load<1>(left + kAmxTile, kVecBytes);
      amx_load<2>(left + 2 * kAmxTile, kVecBytes);
      amx_load<3>(left + 3 * kAmxTile, kVecBytes);
      for (int64_t d = 0; d < panels; ++d) {
        float* sums = acc + (block * panels + d) * kAmxTile;
        amx_load<4>(sums, kVecBytes);
        multiply_value_stripe<0>(v[0], d, next);
        multiply_value_stripe<1>(v[1], d, next);
        multiply_value_stripe<2>(v[2], d, next);
        multiply_value_stripe<3>(v[3], d, next);
        amx_store<4>(sums, kVecBytes);
      }
    }
  }

  // The sums of every row in pair order, rows `stride` floats apart.
  void finish(float* to, int64_t stride) const {
    constexpr int kPart = kAmxRows * kLanes;
    amx_release();
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t d = 0; d < panels; ++d) {
        const float* sums = acc + (r / kAmxRows * panels + d) * kAmxTile + r % kAmxRows * kLanes;
        store(to + r * stride + d * kPanel, load(sums) + load(sums + 2 * kPart));
        store(to + r * stride + d * kPanel + kLanes, load(sums + kPart) + load(sums + 3 * kPart));
      }
    }
  }

 private:
  // Rows [j, j + kAmxKeys): where they lie, or copied where they are not evenly spaced.
  Stripe stripe(const bf16_t* const* key_rows, int j) const {
    const int64_t step = key_rows[j + 1] - key_rows[j];
    bool even = true;
    for (int i = 2; i < kAmxKeys; ++i) even &= key_rows[j + i] - key_rows[j] == i * step;
    if (even) return {key_rows[j], step * static_cast<int64_t>(sizeof(bf16_t))};
    for (int i = 0; i < kAmxKeys; ++i) memcpy(staged + (j + i) * dim, key_rows[j + i], dim * sizeof(bf16_t));
    return {staged + j * dim, dim * static_cast<int64_t>(sizeof(bf16_t))};
  }

  static void load_panel(const Stripe& x, int64_t panel, bool read_once) {
    const bf16_t* from = x.first + panel * kPanel;
    if (read_once) {
      amx_stream<5>(from, x.stride);
    } else {
      amx_load<5>(from, x.stride);
    }
  }
  template <int kSum>
  void multiply_key_stripe(const Stripe& k, int64_t panel, Prefetch<bf16_t>& next) const {
    load_panel(k, panel, columns == 1);
    amx_multiply<kSum, 5, 4>();
    share(next);
  }
  template <int kLeft>
  void multiply_value_stripe(const Stripe& v, int64_t panel, Prefetch<bf16_t>& next) const {
    load_panel(v, panel, blocks == 1);
    amx_multiply<4, kLeft, 5>();
    share(next);
  }

  // kAmxRows columns of [kAmxKeys][kLanes] -> rows kKeyTile apart.
  static void transpose_rows(const float* from, float* to) {
    __m512 x[4];  // lane group g of x[i]: key 4 * g + i
    for (int i = 0; i < 4; ++i) {
      const float* at = from + i * kLanes;
      x[i] = _mm512_castps128_ps512(_mm_loadu_ps(at));
      x[i] = _mm512_insertf32x4(x[i], _mm_loadu_ps(at + 4 * kLanes), 1);
      x[i] = _mm512_insertf32x4(x[i], _mm_loadu_ps(at + 8 * kLanes), 2);
      x[i] = _mm512_insertf32x4(x[i], _mm_loadu_ps(at + 12 * kLanes), 3);
    }
    const __m512 low01 = _mm512_unpacklo_ps(x[0], x[1]), low23 = _mm512_unpacklo_ps(x[2], x[3]);
    const __m512 high01 = _mm512_unpackhi_ps(x[0], x[1]), high23 = _mm512_unpackhi_ps(x[2], x[3]);
    store(to, _mm512_shuffle_ps(low01, low23, 0x44));
    store(to + kKeyTile, _mm512_shuffle_ps(low01, low23, 0xee));
    store(to + 2 * kKeyTile, _mm512_shuffle_ps(high01, high23, 0x44));
    store(to + 3 * kKeyTile, _mm512_shuffle_ps(high01, high23, 0xee));
  }
};

#endif

}  // namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE
