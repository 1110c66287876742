// Which tiles a decode CTA works on, found on the device from the lengths: no host knows them, so that a captured launch stays
// right when they change. The decomposition is native/core/stream_k.h; here are its items and the walk along a run.
//
// Entries are the rows of the length table: requests, or (request, KV head) with per-head rows. An entry's items are its (KV
// head, block of Shape::kRows packed rows) in that order, all of one length: the tiles of Shape::kTileKeys keys that some row of
// the request sees, at least 1.
#pragma once
#include "../../native/core/stream_k.h"
#include "request.cuh"

namespace kvasir::cuda {

// The items of an entry.
struct Span {
  int first_tile, tiles;  // key tiles that are read, perhaps none
  int blocks, items;      // row blocks of a KV head; items of the entry
  __device__ int length() const { return max(tiles, 1); }
};

__device__ __forceinline__ int entries_of(const AttentionParams& p) {
  return p.per_head_rows ? p.batch * p.num_kv_heads : p.batch;
}
template <class Read>
__device__ __forceinline__ RequestWords entry_words(const AttentionParams& p, int entry, Read read) {
  return p.per_head_rows ? load_words(p, p.kv_heads.div(entry), p.kv_heads.mod(entry), read) : load_words(p, entry, 0, read);
}
__device__ __forceinline__ Request entry_of_words(const AttentionParams& p, int entry, const RequestWords& words) {
  return request_of(p, p.per_head_rows ? p.kv_heads.div(entry) : entry, words);
}
__device__ __forceinline__ Request load_entry(const AttentionParams& p, int entry) {
  return entry_of_words(p, entry, entry_words(p, entry, TableRead{}));
}

template <class Shape>
__device__ __forceinline__ Span span_of(const AttentionParams& p, const Request& r) {
  int begin, end;
  visible_keys(p, r.kv_len, r.q_start, r.q_start + r.qo_len - 1, begin, end);
  Span s;
  s.first_tile = begin / Shape::kTileKeys;
  s.tiles = max((end + Shape::kTileKeys - 1) / Shape::kTileKeys - s.first_tile, 0);
  s.blocks = (r.qo_len * static_cast<int>(p.group.divisor) + Shape::kRows - 1) / Shape::kRows;
  s.items = p.per_head_rows ? s.blocks : s.blocks * p.num_kv_heads;
  return s;
}

// The rows of an item: packed row -> query and head.
struct ItemRows {
  const Request& request;
  int kv_head, row_begin, rows;  // of the block
};

// A CTA's run of the line.
struct Work {
  int64_t total, begin;  // tiles of the whole line; where the run begins
  int workers;           // CTAs that take part
  int left;              // tiles of the run; 0: this CTA takes no part
  int entry, position;   // the entry that holds tile `begin`, and its place among the entry's tiles
};

template <int kThreads>
struct WorkShared {
  Work work;
  Request request;  // of the entry where the run begins
  int64_t tiles[kThreads / 32];
  int items[kThreads / 32], longest[kThreads / 32];
};

// The general way to a run; out of line, for most lines take the short one below.
inline __device__ __noinline__ Work cut_any_line(int64_t total, int64_t items, int64_t longest, int slots, int worker) {
  Work w = {};
  w.total = total;
  w.workers = stream_k_workers(total, items, longest, slots, kLeastTiles);
  if (worker < w.workers) {
    const TileRun run = stream_k_run(total, w.workers, worker);
    w.begin = run.begin;
    w.left = static_cast<int>(run.end - run.begin);
  }
  return w;
}

// Who works on an item with this worker; out of line, for one thread asks, once.
inline __device__ __noinline__ StreamKTeam team_of(const Work& work, int worker, int64_t item_begin, int length) {
  return stream_k_team(work.total, work.workers, worker, item_begin, length);
}

// Run `worker` of a line of `total` tiles: what stream_k.h says, without a division where the host could make it.
__device__ __forceinline__ Work cut_line(const AttentionParams& p, int64_t total, int64_t items, int64_t longest, int worker) {
  static_assert(kLeastTiles == 1);
  const bool uniform = items * longest == total;
  const int64_t few = items * kShortJoin;
  if (uniform && longest <= kShortItem && few * 3 >= p.slots && few < p.slots && total > few) {
    const int length = static_cast<int>(longest), workers = static_cast<int>(few), begin = worker * length / kShortJoin;
    return {total, begin, workers, worker < workers ? (worker + 1) * length / kShortJoin - begin : 0, 0, 0};
  }
  if (total <= p.slots && total > 0) {  // a tile each
    const int tiles = static_cast<int>(total);
    return {total, worker, tiles, worker < tiles ? 1 : 0, 0, 0};
  }
  const bool even = uniform && items == p.even_items;
  if (total <= 0 || total >> 22 != 0 || (uniform && !even && items <= p.slots))
    return cut_any_line(total, items, longest, p.slots, worker);
  Work w = {};
  w.total = total;
  w.workers = even ? p.even_workers : p.slots;
  if (worker < w.workers) {
    const int tiles = static_cast<int>(total);
    const FastDiv& by = even ? p.by_even_workers : p.by_slots;
    const int begin = by.div(worker * tiles);
    w.begin = begin;
    w.left = by.div((worker + 1) * tiles) - begin;
  }
  return w;
}

// Stream-K: the run of CTA `worker`, from the lengths of all entries. Every thread of the CTA calls it; early, with its own
// entry, which it plans by, for that may be another when it is read again. Phases: strips of entries are measured, one a thread;
// prefix sums over the warp, then over the CTA (barrier: all arrive and wait); the thread whose strip holds the run's first tile
// looks up its entry (barrier: all arrive and wait).
template <class Shape>
__device__ Work plan_work(const AttentionParams& p, WorkShared<Shape::kThreads>& shared, int worker, bool early,
                          const Request& mine) {
  constexpr int kWarps = Shape::kThreads / 32;
  const int entries = entries_of(p);
  const int t = threadIdx.x, lane = t & 31, warp = t >> 5;
  const int strip = (entries + Shape::kThreads - 1) / Shape::kThreads, from = min(t * strip, entries),
            to = min(from + strip, entries);
  int64_t tiles = 0;
  int items = 0, longest = 0;
  const auto entry_at = [&](int e) { return early ? mine : load_entry(p, e); };
  for (int e = from; e < to; ++e) {
    const Span span = span_of<Shape>(p, entry_at(e));
    tiles += static_cast<int64_t>(span.items) * span.length();
    items += span.items;
    if (span.items > 0) longest = max(longest, span.length());
  }
  int64_t scan = tiles;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int64_t other = __shfl_up_sync(0xffffffffu, scan, offset);
    if (lane >= offset) scan += other;
  }
  items = __reduce_add_sync(0xffffffffu, items);
  longest = __reduce_max_sync(0xffffffffu, longest);
  if (lane == 31) shared.tiles[warp] = scan, shared.items[warp] = items, shared.longest[warp] = longest;
  __syncthreads();  // all threads: every warp's sums are visible
  int64_t before = scan - tiles, total = 0, all_items = 0;
  longest = 0;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) {
    if (i < warp) before += shared.tiles[i];
    total += shared.tiles[i];
    all_items += shared.items[i];
    longest = max(longest, shared.longest[i]);
  }
  Work w = cut_line(p, total, all_items, longest, worker);
  if (w.left > 0 && w.begin >= before && w.begin < before + tiles) {
    int e = from;
    for (;; ++e) {
      shared.request = entry_at(e);
      const Span span = span_of<Shape>(p, shared.request);
      const int64_t here = static_cast<int64_t>(span.items) * span.length();
      if (w.begin < before + here) break;
      before += here;
    }
    w.entry = e;
    w.position = static_cast<int>(w.begin - before);
    shared.work = w;
  }
  __syncthreads();  // all threads: the run is visible
  return w.left > 0 ? shared.work : w;
}

// A walk along a CTA's pieces. The loads of a warp run ahead of its products, each with a walk of its own.
template <class Shape>
struct Walk {
  Request request;  // of the piece
  Span span;
  int entry, item;  // the piece's; fixed: the KV head instead of the entry
  int skip, tiles;  // tiles of the item before the piece; tiles of the line in the piece (0: past the last one)
  int left;         // tiles of the run from the piece's first one on
  bool fixed;       // one piece a row block: split p.num_splits ways instead of cut from the line
  int fixed_begin, fixed_end;

  // Plans, and goes to the run's first piece. `mine` is entry threadIdx.x, or the last one. One entry, where every nanosecond
  // shows, needs no barrier.
  __device__ Work start(const AttentionParams& p, WorkShared<Shape::kThreads>& shared, int worker, bool early,
                        const Request& mine) {
    fixed = false;
    Work w;
    if (entries_of(p) == 1) {
      request = mine;
      span = span_of<Shape>(p, request);
      w = cut_line(p, static_cast<int64_t>(span.items) * span.length(), span.items, span.length(), worker);
      w.position = static_cast<int>(w.begin);
    } else {
      w = plan_work<Shape>(p, shared, worker, early, mine);
      if (w.left > 0) {
        request = shared.request;
        span = span_of<Shape>(p, request);
      }
    }
    entry = w.entry;
    left = w.left;
    tiles = 0;
    if (left > 0) {
      item = static_cast<int>(stream_k_scale(w.position, 1, span.length()));
      skip = w.position - item * span.length();
      tiles = min(span.length() - skip, left);
    }
    return w;
  }

  // Split `split` of the row blocks of (request, KV head).
  __device__ void start_fixed(const AttentionParams& p, int request_index, int kv_head, int split) {
    fixed = true;
    request = load_request(p, request_index, kv_head);
    span = span_of<Shape>(p, request);
    entry = kv_head;
    left = 0;
    if (p.num_splits <= 1 && split > 0) span.blocks = 0;
    item = kv_head * span.blocks;
    fixed_begin = span.first_tile, fixed_end = span.first_tile + span.tiles;
    if (p.num_splits > 1) split_tiles(p, split, fixed_begin, fixed_end);
    skip = fixed_begin - span.first_tile;
    tiles = span.blocks > 0 ? 1 : 0;
  }

  __device__ bool done() const { return tiles == 0; }

  __device__ void next(const AttentionParams& p) {
    ++item;
    if (fixed) {
      if (item == (entry + 1) * span.blocks) tiles = 0;
      return;
    }
    left -= tiles;
    skip = 0;
    if (left == 0) {
      tiles = 0;
      return;
    }
    if (item == span.items) {
      item = 0;
      do {
        if (++entry == entries_of(p)) {  // a line that was planned too early
          tiles = 0;
          return;
        }
        request = load_entry(p, entry);
        span = span_of<Shape>(p, request);
      } while (span.items == 0);
    }
    tiles = min(span.length(), left);
  }

  // Key tiles of the piece: [first_tile, first_tile + count), count 0 where nothing is seen.
  __device__ int first_tile() const { return fixed ? fixed_begin : span.first_tile + skip; }
  __device__ int count() const { return fixed ? max(fixed_end - fixed_begin, 0) : min(tiles, span.tiles - skip); }
  __device__ int block() const { return span.blocks == 1 ? 0 : item % span.blocks; }
  __device__ int kv_head(const AttentionParams& p) const {
    if (fixed) return entry;
    return p.per_head_rows ? p.kv_heads.mod(entry) : (span.blocks == 1 ? item : item / span.blocks);
  }
  // The item is the run's alone.
  __device__ bool whole() const { return skip == 0 && tiles == span.length(); }
};

}  // namespace kvasir::cuda
