// The moving parts of the prefill kernel: its shape, its bookkeeping, and the copies that bring tiles and table entries into
// shared memory.
#pragma once
#include <cstddef>
#include <type_traits>

#include "../common/swizzle.cuh"
#include "fold.cuh"
#include "tile_source.cuh"

namespace kvasir::cuda {

template <int kHeadDim_, int kRows_, int kWarps_, int kKeys_, int kStages_, int kCtasPerSm_, bool kQInRegisters_ = false>
struct PrefillShape {
  static constexpr bool kQInRegisters = kQInRegisters_;
  static constexpr int kHeadDim = kHeadDim_, kRows = kRows_, kWarps = kWarps_, kKeys = kKeys_, kStages = kStages_;
  static constexpr int kCtasPerSm = kCtasPerSm_;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kWarpRows = kRows / kWarps, kRowTiles = kWarpRows / 16;
  static constexpr int kGroups = kKeys / kPageGroup;
  static_assert(kWarpRows % 16 == 0 && kKeys % kPageGroup == 0 && (kStages == 1 || kStages == 2));
};

// Bookkeeping of a CTA, in shared memory so that the main loop's registers stay with the fragments.
template <class Shape, class Source>
struct PrefillShared {
  static constexpr int kRing = 4;  // tile j and the one being loaded are live; a power of two beyond that
  Source source;
  Request request;
  int kv_head, split, row_begin, rows, tile_begin;  // what this CTA owns: head, split, packed rows; the tile it stops at
  int scratch[Shape::kWarps + 2];
  int row_position[Shape::kRows];
  int ring_slot[kRing][Shape::kGroups];
  int ring_start[kRing][Shape::kGroups];
  int ring_fill[kRing][Shape::kGroups];
  int key_position[Shape::kKeys];  // kExtra
  float key_bias[Shape::kKeys];    // kExtra: log2(e) * log_weight, -inf where no key is
};

// ... and of one that folds segments.
template <class Shape, class Source>
struct FoldedShared : PrefillShared<Shape, Source> {
  static_assert(kSegmentKeys % Shape::kKeys == 0);
  int64_t part_begin;  // of (request, head); -1: the CTA walks all segments
  int first_segment;   // of the request
  SegmentWalk<kSegmentKeys / Shape::kKeys> walk;
  float total_max[Shape::kRows], total_sum[Shape::kRows];  // beside AttentionParams::totals
};
template <class Shape, class Source, bool kFolded>
using SharedOf = std::conditional_t<kFolded, FoldedShared<Shape, Source>, PrefillShared<Shape, Source>>;

template <class Shape, class Shared>
constexpr int prefill_smem_bytes() {
  return Swizzle<Shape::kHeadDim>::tile_bytes(Shape::kRows + 2 * Shape::kStages * Shape::kKeys) +
         static_cast<int>(sizeof(Shared));
}

// Starts the copy of one tile of K or V rows, [kKeys, head_dim], into shared memory. kCheck: keys past `kv_len` (and, kExtra,
// past their page's fill) become zeros, so that garbage there never meets a zero probability.
template <class Shape, class Source, bool kExtra, bool kIsV, bool kCheck>
__device__ __forceinline__ void load_tile(const AttentionParams& p, const PrefillShared<Shape, Source>& s, uint32_t smem,
                                          int tile) {
  using Sw = Swizzle<Shape::kHeadDim>;
  constexpr int kPassRows = Shape::kThreads / Sw::kChunks, kPasses = Shape::kKeys / kPassRows;
  static_assert(kPasses * kPassRows == Shape::kKeys && kPassRows % 8 == 0);  // the swizzle repeats every eight rows
  const int column = threadIdx.x % Sw::kChunks, row0 = threadIdx.x / Sw::kChunks;
  const uint32_t target = smem + Sw::offset(row0, column);
  const int kv_len = s.request.kv_len;
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const int row = row0 + pass * kPassRows, group = row / kPageGroup;
    int key = tile * Shape::kKeys + row, bytes = 16, slot = 0;
    if constexpr (Source::kPaged) slot = s.ring_slot[tile & 3][group];
    if constexpr (kCheck) {
      bool valid = key < kv_len;
      if constexpr (kExtra && Source::kPaged) {
        if (p.page_len != nullptr) {
          const int in_page = p.page_groups.mod(key / kPageGroup) * kPageGroup + key % kPageGroup;
          valid = valid && in_page < s.ring_fill[tile & 3][group];
        }
      }
      bytes = valid ? 16 : 0;
      key = valid ? key : 0;
    }
    const char* source =
        (kIsV ? s.source.v_row(p, slot, key, Shape::kHeadDim * 2) : s.source.k_row(p, slot, key, Shape::kHeadDim * 2)) +
        column * 16;
#pragma unroll
    for (int segment = 0; segment < Sw::kSegments; ++segment) {
      const uint32_t to = target + (segment * Shape::kKeys + pass * kPassRows) * Sw::kRowBytes;
      if constexpr (kCheck) {
        cp_async_16(to, source + segment * Sw::kRowBytes, bytes);
      } else {
        cp_async_16(to, source + segment * Sw::kRowBytes);
      }
    }
  }
}

// Starts the copy of the table entries of a tile into the ring (threads 0 .. kGroups - 1). Entries past kv_len read as slot 0,
// unread.
template <class Shape, class Source, bool kExtra>
__device__ __forceinline__ void load_entries(const AttentionParams& p, PrefillShared<Shape, Source>& s, int tile) {
  if constexpr (Source::kPaged) {
    const int g = threadIdx.x;
    if (g < Shape::kGroups && tile >= 0) {
      const int key = tile * Shape::kKeys + g * kPageGroup;
      const bool valid = key < s.request.kv_len;
      const int entry = valid ? p.page_groups.div(key / kPageGroup) : 0;
      cp_async_4(smem_address(&s.ring_slot[tile & 3][g]), s.source.slots + entry, valid ? 4 : 0);
      if constexpr (kExtra) {
        if (s.source.starts != nullptr)
          cp_async_4(smem_address(&s.ring_start[tile & 3][g]), s.source.starts + entry, valid ? 4 : 0);
        if (s.source.fills != nullptr) cp_async_4(smem_address(&s.ring_fill[tile & 3][g]), s.source.fills + entry, valid ? 4 : 0);
      }
    }
  }
}

// kExtra: position and bias of every key of the tile, and keys rotated in place. All threads; the caller's barriers surround it.
template <typename T, class Shape, class Source>
__device__ void prepare_keys(const AttentionParams& p, PrefillShared<Shape, Source>& s, char* k_tile, int tile, int kv_head) {
  const auto position = [&](int row, int& in_page, int& fill) {
    const int key = tile * Shape::kKeys + row;
    in_page = 0;
    fill = 1;
    if constexpr (Source::kPaged) {
      in_page = p.page_groups.mod(key / kPageGroup) * kPageGroup + key % kPageGroup;
      fill = p.page_len != nullptr ? s.ring_fill[tile & 3][row / kPageGroup] : p.page_size;
      if (p.page_start != nullptr) return s.ring_start[tile & 3][row / kPageGroup] + in_page;
    }
    return key;
  };
  for (int row = threadIdx.x; row < Shape::kKeys; row += Shape::kThreads) {
    const int key = tile * Shape::kKeys + row;
    int in_page, fill;
    const int at = position(row, in_page, fill);
    const bool valid = key < s.request.kv_len && in_page < fill;
    float bias = valid ? 0.f : -INFINITY;
    if (valid && p.log_weight != nullptr) {
      int64_t index = s.request.kv_begin + static_cast<int64_t>(key);
      if constexpr (Source::kPaged) {
        index = (s.request.kv_begin + static_cast<int64_t>(p.page_groups.div(key / kPageGroup))) * p.page_size + in_page;
      }
      bias = kLog2E * p.log_weight[index * p.log_weight_token + kv_head * p.log_weight_head];
    }
    s.key_position[row] = at;
    s.key_bias[row] = bias;
  }
  if (p.k_inv_freq == nullptr) return;
  using Sw = Swizzle<Shape::kHeadDim>;
  const auto element = [&](int row, int d) {
    const int chunk = d / 8;
    return reinterpret_cast<T*>(k_tile + (chunk / Sw::kChunks) * Shape::kKeys * Sw::kRowBytes +
                                Sw::offset(row, chunk % Sw::kChunks)) +
           d % 8;
  };
  const int pairs = p.rotary_pairs;
  for (int i = threadIdx.x; i < Shape::kKeys * pairs; i += Shape::kThreads) {
    const int row = i / pairs, pair = i - row * pairs;
    int in_page, fill;
    const int at = position(row, in_page, fill);
    float sine, cosine;
    sincosf(__fmul_rn(static_cast<float>(at), p.k_inv_freq[pair]), &sine, &cosine);
    sine *= p.rope_scale;
    cosine *= p.rope_scale;
    T *a = element(row, pair), *b = element(row, pair + pairs);
    const float x = to_float(*a), y = to_float(*b);
    *a = from_float<T>(x * cosine - y * sine);
    *b = from_float<T>(y * cosine + x * sine);
  }
}

}  // namespace kvasir::cuda
