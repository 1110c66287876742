// How the units of a decode warp come into its shared memory. A warp runs a pipeline of its own: kStages stages of one unit of
// kKeys keys, K and V, filled kStages - 1 units ahead, across the ends of pieces, so that memory never waits for a merge. Two
// loaders do the same:
//   CpAsyncLoader  sm_80 and later: 16 bytes a lane; keys past the end become zeros on the way
//   TmaLoader      sm_90: one bulk tensor copy for the K or the V of a unit (or of 16 of its rows and 64 columns, where pages are
//                  smaller), issued by one lane and counted in by a transaction barrier a stage; rows past the end arrive as they
//                  are, and the warp clears those of V
#pragma once
#include <type_traits>

#include "../common/swizzle.cuh"
#include "../common/tma.cuh"
#include "decode_ahead.cuh"
#include "decode_work.cuh"
#include "shapes.h"
#include "tile_source.cuh"

namespace kvasir::cuda {

template <int kHeadDim_, int kRows_, int kWarps_, int kKeys_, int kStages_, int kResident_, int kHalves_ = 1>
struct DecodeShape {
  static constexpr int kHeadDim = kHeadDim_, kRows = kRows_, kWarps = kWarps_, kKeys = kKeys_, kStages = kStages_;
  static constexpr int kResident = kResident_;  // CTAs that fit a multiprocessor
  static constexpr int kHalves = kHalves_;      // warps that share a unit's keys, each with its part of the rows
  static constexpr int kWarpRows = kRows / kHalves;
  static constexpr int kThreads = kWarps * kHalves * 32;
  static constexpr int kTileKeys = kWarps * kKeys;  // a tile: one unit a warp
  static constexpr int kGroups = kKeys / kPageGroup;
  static constexpr int kHalfBytes = Swizzle<kHeadDim>::tile_bytes(kKeys);  // K or V of one unit
  static constexpr int kStageBytes = 2 * kHalfBytes, kWarpBytes = kStages * kStageBytes;
  static constexpr DecodeTile kTile = {kRows, kWarps, kKeys, kStages, 1, kResident, kHalves};
  static constexpr bool kQInSmem = kTile.q_in_smem(kHeadDim);  // else in registers
  static_assert(kWarpRows % 8 == 0 && kHalves <= 2 && kKeys % kPageGroup == 0 && kStages >= 2);
  static_assert(kStageBytes >= kRows * kHeadDim * 4, "a stage must hold a warp's accumulator");
};

// By value to the kernel; unused by CpAsyncLoader. Paged: k serves K and V.
struct DecodeMaps {
  CUtensorMap k, v;
};

// What a unit's consumer must know of its groups of 16 keys (kExtra).
template <class Shape>
struct UnitNotes {
  int start[Shape::kWarps][Shape::kStages][Shape::kGroups];  // position of each group's first key ...
  int fill[Shape::kWarps][Shape::kStages][Shape::kGroups];   // ... and how many keys it holds
};

// A warp's side of the pipeline that both loaders share: which unit comes next, and where its groups lie. Table entries are read
// kUnits units ahead of their use, so that no unit waits for a look-up but the first of a piece. A loader's start() says whether
// there was a unit to start.
template <class Shape, class Source, bool kExtra>
struct UnitFeed {
  static constexpr int kUnits = 32 / Shape::kGroups;  // units whose table entries the warp's lanes hold, one group a lane

  Walk<Shape> walk;
  Source source;
  int kv_head;              // of the piece
  int unit, rest, fresh;    // next unit; units of the piece from it on; those whose entries are held
  GroupEntry mine, behind;  // the entries held, and those of the kUnits units behind them
  DecodeTurn turn;          // told when nothing is left to start

  // What the tables say that the first units of a piece depend on, its request aside.
  struct Words {
    int k = 0, v = 0;
    GroupEntry mine, behind;
    __device__ bool operator==(const Words& o) const { return (k == o.k) & (v == o.v) & (mine == o.mine) & (behind == o.behind); }
  };
  static constexpr int kWords = 8;

  // For `units` units from `first` on; `read` numbers the words 0..7. All loads are independent.
  template <class Read>
  __device__ static Words look_up(const AttentionParams& p, const Request& request, int kv_head, int first, int units, int lane,
                                  Read read) {
    Words w;
    if constexpr (Source::kPaged) {
      if (units > 0) {
        w.k = read(p.page_offsets + 2 * kv_head, 0), w.v = read(p.page_offsets + 2 * kv_head + 1, 1);
        w.mine = entry_of(p, request, first, lane, read, 2);
        w.behind = entries_behind(p, request, first, units, lane, read);
      }
    }
    return w;
  }

  // The entry of this lane's group among the kUnits units from `first` on.
  template <class Read>
  __device__ static GroupEntry entry_of(const AttentionParams& p, const Request& request, int first, int lane, Read read,
                                        int word) {
    GroupEntry e = {};
    if constexpr (Source::kPaged) {
      const int key = (first + lane / Shape::kGroups * Shape::kWarps) * Shape::kKeys + lane % Shape::kGroups * kPageGroup;
      const int entry = request.kv_begin + p.page_groups.div(key / kPageGroup);
      // Within the table, too: lengths that are read too early may be anything.
      if (key < request.kv_len && static_cast<unsigned>(entry) < static_cast<unsigned>(p.num_entries)) {
        e.slot = read(p.page_indices + entry, word);
        if constexpr (kExtra) {
          if (p.page_start != nullptr) e.start = read(p.page_start + entry, word + 1);
          e.filled = p.page_len != nullptr ? read(p.page_len + entry, word + 2) : p.page_size;
        }
      }
    }
    return e;
  }
  // Of the units behind the kUnits ones from `first` on, where the piece has that many.
  template <class Read>
  __device__ static GroupEntry entries_behind(const AttentionParams& p, const Request& request, int first, int units, int lane,
                                              Read read) {
    return units > kUnits ? entry_of(p, request, first + kUnits * Shape::kWarps, lane, read, 5) : GroupEntry{};
  }

  template <class Read>
  __device__ Words enter_piece(const AttentionParams& p, int warp, int lane, Read read) {
    rest = walk.done() ? 0 : walk.count();
    if (rest == 0) return {};
    kv_head = walk.kv_head(p);
    unit = walk.first_tile() * Shape::kWarps + warp;
    fresh = kUnits;
    const Words w = look_up(p, walk.request, kv_head, unit, rest, lane, read);
    if constexpr (Source::kPaged) {
      source.init_at(p, walk.request, w.k, w.v);
      mine = w.mine;
      behind = w.behind;
    } else {
      source.init(p, walk.request, kv_head);
    }
    return w;
  }

  // True when there is a next unit; its entries are in the lanes then.
  __device__ bool ready(const AttentionParams& p, int warp, int lane) {
    while (rest == 0) {
      if (walk.done()) {
        turn.tell();
        return false;
      }
      walk.next(p);
      enter_piece(p, warp, lane, TableRead{});
    }
    if constexpr (Source::kPaged) {
      if (fresh == 0) {
        mine = behind;
        behind = entries_behind(p, walk.request, unit, rest, lane, TableRead{});
        fresh = kUnits;
      }
    }
    return true;
  }

  // Whether more is to be loaded.
  __device__ bool goes_on() const { return rest > 0 || !walk.done(); }

  __device__ void pass() {
    unit += Shape::kWarps;
    --rest;
    --fresh;
  }
  // Back by so many units of the piece, whose entries are still held.
  __device__ void rewind(int units) {
    unit -= units * Shape::kWarps;
    rest += units;
    fresh += units;
  }

  // Page slot and number of keys of group g of the unit; keeps start and fill for the consumer (kExtra). The whole warp calls it.
  __device__ void locate(const AttentionParams& p, UnitNotes<Shape>& notes, int warp, int lane, int stage, int g, int& slot,
                         int& filled) const {
    const int key0 = unit * Shape::kKeys + g * kPageGroup;
    slot = 0;
    filled = walk.request.kv_len - key0;
    int start = key0;
    if constexpr (Source::kPaged) {
      const int from = (kUnits - fresh) * Shape::kGroups + g;
      slot = __shfl_sync(0xffffffffu, mine.slot, from);
      if constexpr (kExtra) {
        const int in_page = p.page_groups.mod(key0 / kPageGroup) * kPageGroup;
        filled = min(filled, __shfl_sync(0xffffffffu, mine.filled, from) - in_page);
        const int page_start = __shfl_sync(0xffffffffu, mine.start, from);
        if (p.page_start != nullptr) start = page_start + in_page;
      }
    }
    if constexpr (kExtra) {
      if (lane == 0) notes.start[warp][stage][g] = start, notes.fill[warp][stage][g] = filled;
    }
  }
};

template <class Shape, class Source, bool kExtra>
struct CpAsyncLoader : UnitFeed<Shape, Source, kExtra> {
  static constexpr bool kClears = false;
  using Sw = Swizzle<Shape::kHeadDim>;
  static_assert(Shape::kHalves == 1, "what a warp copies itself, it alone waits for");
  uint32_t stages;  // this warp's, in shared memory

  __device__ void init(const AttentionParams&, const DecodeMaps&, uint32_t warp_stages, uint32_t, int, int) {
    stages = warp_stages;
  }

  __device__ bool start(const AttentionParams& p, const DecodeMaps&, UnitNotes<Shape>& notes, int stage, int warp, int lane,
                        bool = false) {
    const bool some = this->ready(p, warp, lane);
    if (some) {
      constexpr int kPassRows = 32 / Sw::kChunks;
      const uint32_t to = stages + stage * Shape::kStageBytes;
#pragma unroll
      for (int g = 0; g < Shape::kGroups; ++g) {
        int slot, filled;
        this->locate(p, notes, warp, lane, stage, g, slot, filled);
        const int key = filled > 0 ? this->unit * Shape::kKeys + g * kPageGroup : 0;
        const char* k = this->source.k_row(p, slot, key, Shape::kHeadDim * 2) + lane % Sw::kChunks * 16;
        const char* v = this->source.v_row(p, slot, key, Shape::kHeadDim * 2) + lane % Sw::kChunks * 16;
        const int64_t k_step = Source::kPaged ? Shape::kHeadDim * 2 : p.k_token;
        const int64_t v_step = Source::kPaged ? Shape::kHeadDim * 2 : p.v_token;
#pragma unroll
        for (int pass = 0; pass < kPageGroup / kPassRows; ++pass) {
          const int row = lane / Sw::kChunks + pass * kPassRows;
          const int bytes = row < filled ? 16 : 0;
          const int64_t at = bytes > 0 ? row : 0;
          const uint32_t target = to + g * kPageGroup * Sw::kRowBytes + Sw::offset(row, lane % Sw::kChunks);
#pragma unroll
          for (int segment = 0; segment < Sw::kSegments; ++segment) {
            const uint32_t there = target + segment * Shape::kKeys * Sw::kRowBytes;
            cp_async_16(there, k + at * k_step + segment * Sw::kRowBytes, bytes);
            cp_async_16(there + Shape::kHalfBytes, v + at * v_step + segment * Sw::kRowBytes, bytes);
          }
        }
      }
      this->pass();
    }
    cp_async_commit();
    return some;
  }

  __device__ void wait(int, uint32_t) const { cp_async_wait<Shape::kStages - 2>(); }
  __device__ void drain(int) const { cp_async_wait<0>(); }
  __device__ void fence() const {}
};

template <class Shape, class Source, bool kExtra>
struct TmaLoader : UnitFeed<Shape, Source, kExtra> {
  static constexpr bool kClears = true;
  using Sw = Swizzle<Shape::kHeadDim>;
  static constexpr int kBarriers = Shape::kHalves * Shape::kStages;  // a stage's unit has landed; the second half has read it
  uint32_t stages, barriers;                                         // this warp's, in shared memory
  uint64_t policy;

  // With two halves all threads of the CTA arrive and wait.
  __device__ void init(const AttentionParams&, const DecodeMaps& maps, uint32_t warp_stages, uint32_t all_barriers, int warp,
                       int half) {
    stages = warp_stages;
    barriers = all_barriers + warp * kBarriers * 8;
    policy = evict_first_policy();
    if (half == 0 && (threadIdx.x & 31) == 0) {
      init_barriers();
      if (warp == 0) prefetch_tensor_map(&maps.k);
    }
    if constexpr (Shape::kHalves > 1) __syncthreads();
    __syncwarp();
  }
  __device__ void init_barriers() const {
    for (int i = 0; i < kBarriers; ++i) mbarrier_init(barriers + i * 8, 1);
    fence_async_proxy();
  }

  // to_l2: brings the unit to the L2 cache only.
  __device__ bool start(const AttentionParams& p, const DecodeMaps& maps, UnitNotes<Shape>& notes, int stage, int warp, int lane,
                        bool to_l2 = false) {
    if (!this->ready(p, warp, lane)) return false;
    // One box for all of the unit's rows of K or V, or, where 16 of them share a page, one for 16 rows of a segment.
    const bool whole = p.box_rows == Shape::kKeys;
    int slots[Shape::kGroups], filled[Shape::kGroups], groups = 0;
#pragma unroll
    for (int g = 0; g < Shape::kGroups; ++g) {
      this->locate(p, notes, warp, lane, stage, g, slots[g], filled[g]);
      groups += filled[g] > 0;
    }
    if (lane == 0) {
      const uint32_t barrier = barriers + stage * 8, to = stages + stage * Shape::kStageBytes;
      const int key = this->unit * Shape::kKeys;
      if (whole && groups > 0) groups = Shape::kGroups;  // rows past the end come too, but no unit of them alone
      if (!to_l2) mbarrier_expect(barrier, groups * (Shape::kStageBytes / Shape::kGroups));
      if (whole) {
        if (groups > 0) copy_box(p, maps, barrier, to, key, 0, slots[0], to_l2);
      } else {
#pragma unroll
        for (int g = 0; g < Shape::kGroups; ++g) {
          if (filled[g] <= 0) continue;
#pragma unroll 1
          for (int segment = 0; segment < Sw::kSegments; ++segment)
            copy_box(p, maps, barrier, to + (segment * Shape::kKeys + g * kPageGroup) * Sw::kRowBytes, key + g * kPageGroup,
                     segment, slots[g], to_l2);
        }
      }
    }
    this->pass();
    return true;
  }

  // A box of K and one of V, from `key` and segment `segment` on.
  __device__ __forceinline__ void copy_box(const AttentionParams& p, const DecodeMaps& maps, uint32_t barrier, uint32_t to,
                                           int key, int segment, int slot, bool to_l2) const {
    if constexpr (Source::kPaged) {
      const int row = p.page_groups.mod(key / kPageGroup) * kPageGroup;
      if (to_l2) {
        tma_prefetch_5d(&maps.k, 0, row, segment, this->source.k / 16, slot);
        tma_prefetch_5d(&maps.k, 0, row, segment, this->source.v / 16, slot);
        return;
      }
      tma_load_5d(to, &maps.k, barrier, 0, row, segment, this->source.k / 16, slot, policy);
      tma_load_5d(to + Shape::kHalfBytes, &maps.k, barrier, 0, row, segment, this->source.v / 16, slot, policy);
    } else {
      const int token = this->walk.request.kv_begin + key;
      if (to_l2) {
        tma_prefetch_4d(&maps.k, 0, token, segment, this->kv_head);
        tma_prefetch_4d(&maps.v, 0, token, segment, this->kv_head);
        return;
      }
      tma_load_4d(to, &maps.k, barrier, 0, token, segment, this->kv_head, policy);
      tma_load_4d(to + Shape::kHalfBytes, &maps.v, barrier, 0, token, segment, this->kv_head, policy);
    }
  }

  __device__ void wait(int stage, uint32_t parity) const { mbarrier_wait(barriers + stage * 8, parity); }
  // The second half's word that it has read a stage, given by one lane, and the first half's wait for it.
  __device__ void release(int stage) const { mbarrier_arrive(barriers + (Shape::kStages + stage) * 8); }
  __device__ void wait_released(int stage, uint32_t parity) const {
    mbarrier_wait(barriers + (Shape::kStages + stage) * 8, parity);
  }
  // Waits for the first so many stages, none of which was waited for yet, and is as new. The whole warp calls it.
  __device__ void drain(int started) const {
    for (int i = 0; i < started; ++i) mbarrier_wait(barriers + i * 8, 0);
    if (started == 0) return;
    __syncwarp();  // all lanes are done with the barriers
    if ((threadIdx.x & 31) == 0) {
      for (int i = 0; i < kBarriers; ++i) mbarrier_inval(barriers + i * 8);
      init_barriers();
    }
    __syncwarp();
  }
  // After ordinary stores to a stage, before it is filled again.
  __device__ void fence() const { fence_async_proxy(); }
};

enum class Loads { cp_async, bulk };

template <Loads kLoads, class Shape, class Source, bool kExtra>
using LoaderOf =
    std::conditional_t<kLoads == Loads::bulk, TmaLoader<Shape, Source, kExtra>, CpAsyncLoader<Shape, Source, kExtra>>;

// Each architecture's code has one of the two; KVASIR_ALL_LOADS keeps both, for comparisons.
#if defined(KVASIR_ALL_LOADS)
template <Loads kLoads>
inline constexpr bool kRunsHere = true;
#elif __CUDA_ARCH__ >= 900
template <Loads kLoads>
inline constexpr bool kRunsHere = kLoads == Loads::bulk;
#else
template <Loads kLoads>
inline constexpr bool kRunsHere = kLoads == Loads::cp_async;
#endif

}  // namespace kvasir::cuda
