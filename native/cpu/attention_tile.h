// The tile producer: turns kKeyTile slots of a request's keys into rows of K and V, wherever they lie (ragged or paged), in the
// dtype they are stored in, or rotated to f32 when keys are stored before RoPE. A codec plugs in as another way to fill k_rows
// and v_rows.
//
// Slots that hold no key, or none that any row of the unit may see, come out as rows of zeros marked invisible: garbage is never
// loaded.
#pragma once

namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE {

template <class T>
struct KeyTile {
  const T* k_rows[kKeyTile];
  const T* v_rows[kKeyTile];
  int32_t position[kKeyTile];  // kNoKey: no key here
  float log_weight[kKeyTile];  // times log2(e); filled only when the call has weights
  int32_t lowest, highest;     // positions of the tile's keys; lowest > highest when it has none
  bool full;                   // every slot holds a key
};

template <class T>
struct TileProducer {
  const AttentionProblem& problem;
  const KeyRow row;
  const int64_t kv_head;
  const Visible any;  // what some row of the unit sees
  const T* zeros;     // [head_dim], at least 2 * kLanes

  // Slots [slot, slot + kKeyTile), those at or past `end` left out.
  void fill(KeyTile<T>& tile, int64_t slot, int64_t end) const {
    tile.lowest = kNoKey, tile.highest = INT32_MIN;
    tile.full = true;
    int64_t j = 0;
    while (j < kKeyTile && slot + j < end) {
      const KeyRun run = problem.run_at(row, kv_head, slot + j);
      const int64_t slots = least(run.slots, least(kKeyTile - j, end - slot - j));
      int64_t first = any.first > run.position ? any.first - run.position : 0;
      first = least(first, slots);
      int64_t last = least(least(run.valid, slots), int64_t{any.last} - run.position + 1);
      if (last < first) last = first;
      if (last > first) {
        const int32_t low = static_cast<int32_t>(run.position + first), high = static_cast<int32_t>(run.position + last - 1);
        if (low < tile.lowest) tile.lowest = low;
        if (high > tile.highest) tile.highest = high;
      }
      if (first > 0 || last < slots) tile.full = false;
      none(tile, j, j + first);
      for (int64_t i = first; i < last; ++i) {
        tile.k_rows[j + i] = reinterpret_cast<const T*>(run.k + i * run.k_stride);
        tile.v_rows[j + i] = reinterpret_cast<const T*>(run.v + i * run.v_stride);
        tile.position[j + i] = static_cast<int32_t>(run.position + i);
      }
      none(tile, j + last, j + slots);
      if (present(problem.args.log_weight)) {
        for (int64_t i = first; i < last; ++i)
          tile.log_weight[j + i] = problem.log_weight(run, kv_head, i) * 1.44269504088896341f;
      }
      j += slots;
    }
    if (j < kKeyTile) tile.full = false;
    none(tile, j, kKeyTile);
  }

 private:
  static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

  void none(KeyTile<T>& tile, int64_t begin, int64_t end) const {
    for (int64_t j = begin; j < end; ++j) {
      tile.k_rows[j] = tile.v_rows[j] = zeros;
      tile.position[j] = kNoKey;
      tile.log_weight[j] = 0.0f;
    }
  }
};

// cos and sin of kLanes angles up to 2^22: the argument is reduced by pi/2 in two parts, each multiply-add rounded once.
KVASIR_INLINE void sincos(Vec angle, Vec& sine, Vec& cosine) {
#if defined(KVASIR_SIMD_AVX2) || defined(KVASIR_SIMD_AVX512) || defined(KVASIR_SIMD_AVX512_BF16)
  const Vec magic = splat(12582912.0f);
  const Vec shifted = fmadd(angle, splat(0.636619772367581343f), magic);
  const Vec n = shifted - magic;
  Vec r = fmadd(n, splat(-1.57079637050628662f), angle);  // exact: both are multiples of 2^-23 and the difference is below 1
  r = fmadd(n, splat(4.37113900018624283e-8f), r);
  const Vec r2 = r * r;
  Vec s = fmadd(splat(-1.9515295891e-4f), r2, splat(8.3321608736e-3f));
  s = fmadd(s, r2, splat(-1.6666654611e-1f));
  s = fmadd(s * r2, r, r);
  Vec c = fmadd(splat(2.443315711809948e-5f), r2, splat(-1.388731625493765e-3f));
  c = fmadd(c, r2, splat(4.166664568298827e-2f));
  c = fmadd(c * r2, r2, fmadd(splat(-0.5f), r2, splat(1.0f)));
  const VecBits quadrant = bits_of(shifted);
  const VecInt swap = (quadrant & 1u) != 0u;
  sine = vec_of(bits_of(select(swap, c, s)) ^ ((quadrant & 2u) << 30));
  cosine = vec_of(bits_of(select(swap, s, c)) ^ (((quadrant + 1u) & 2u) << 30));
#else
  for (int i = 0; i < kLanes; ++i) {
    sine[i] = std::sin(angle[i]);
    cosine[i] = std::cos(angle[i]);
  }
#endif
}

// Rotates the tile's keys by their positions into `staged` [kKeyTile][head_dim]; `rows` then points there. Rotated keys are
// rounded to the cache's dtype, as if they had been stored after RoPE.
template <class T>
void rotate_keys(const AttentionProblem& problem, const KeyTile<T>& tile, T* staged, const T** rows) {
  const kvasir_tensor& inv_freq = problem.args.k_inv_freq;
  const int64_t half = inv_freq.shape[0], dim = problem.head_dim;
  const float* frequency = static_cast<const float*>(inv_freq.data);
  for (int j = 0; j < kKeyTile; ++j) {
    const T* from = tile.k_rows[j];
    rows[j] = from;
    if (tile.position[j] == kNoKey) continue;
    T* to = staged + j * dim;
    rows[j] = to;
    memcpy(to, from, dim * sizeof(T));
    for (int64_t i = 0; i < half; i += kLanes) {
      const int count = static_cast<int>(half - i < kLanes ? half - i : kLanes);
      Vec sine, cosine;
      sincos(static_cast<float>(tile.position[j]) * load_first(frequency + i, count), sine, cosine);
      sine *= problem.args.k_rope_scale;
      cosine *= problem.args.k_rope_scale;
      const Vec a = load_first(from + i, count), b = load_first(from + i + half, count);
      store_first(to + i, a * cosine - b * sine, count);
      store_first(to + i + half, b * cosine + a * sine, count);
    }
  }
}

}  // namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE
