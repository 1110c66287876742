// Stream-K for attention (LeanAttention, arXiv 2405.10480): the tiles of all work items form one line, the line is cut into equal
// runs, one a worker, and items that fall into several runs are joined by the merge operator.
//
// An item is what one accumulator belongs to: (request, KV head, block of query rows); its length is its number of key tiles, at
// least 1, so that an item that sees no key is still somebody's to write. A piece is what a run holds of an item. Run w is
// [w * total / workers, (w + 1) * total / workers): all runs are equal within one tile, and where every item has the same length
// and each gets the same number of workers, runs end where items end. The workers of one item follow one another, so that the
// order in which its pieces are merged is fixed by the lengths alone.
//
// Pieces that are no whole item leave a partial, and the last worker of an item merges them: all others post theirs. A run holds
// at most two such pieces, the end of an item begun before it and the beginning of one that goes on behind it, so that a worker
// merges at most one item and posts at most one piece: one post a worker is room enough for any batch. Many pieces are merged as
// a tree of 2^fan_bits neighbours a node, each by the last worker below it.
#pragma once
#include <cstdint>

#include "platform.h"

namespace kvasir {

struct TileRun {
  int64_t begin, end;
};

// a * b / c. Short lines, whose planning is a good part of their time, take a float quotient, off by one at most, and mend it:
// an integer division costs a GPU several times as much.
KVASIR_HD int64_t stream_k_scale(int64_t a, int b, int64_t c) {
  const int64_t product = a * b;
  if ((product | c) >> 22 != 0) return product / c;
  const int n = static_cast<int>(product), d = static_cast<int>(c);
#ifdef __CUDA_ARCH__
  const float approximate = __fdividef(static_cast<float>(n), static_cast<float>(d));
#else
  const float approximate = static_cast<float>(n) / static_cast<float>(d);
#endif
  int quotient = static_cast<int>(approximate);
  const int rest = n - quotient * d;
  if (rest < 0) --quotient;
  if (rest >= d) ++quotient;
  return quotient;
}

KVASIR_HD TileRun stream_k_run(int64_t total, int workers, int worker) {
  return {stream_k_scale(total, worker, workers), stream_k_scale(total, worker + 1, workers)};
}

// The worker whose run holds `tile`; needs workers <= total.
KVASIR_HD int stream_k_owner(int64_t total, int workers, int64_t tile) {
  const int64_t last = (tile + 1) * workers - 1;
  return static_cast<int>(stream_k_scale(last, 1, total));
}

// The workers [first, first + count) of one item, and which of them this is.
struct StreamKTeam {
  int first, count, place;

  // Whether this is the last of the 2^bits workers around it, who merges what they have.
  KVASIR_HD bool merges(int bits) const { return place + 1 == count || ((place + 1) & ((1 << bits) - 1)) == 0; }
};

KVASIR_HD StreamKTeam stream_k_team(int64_t total, int workers, int worker, int64_t item_begin, int64_t length) {
  const int first = stream_k_owner(total, workers, item_begin);
  return {first, stream_k_owner(total, workers, item_begin + length - 1) - first + 1, worker - first};
}

// A node of a team's tree, by the worker that merges it. Its children but the last, which is that worker's own, are `posted`
// posts in a row; posts are numbered by level of `slots` each: pieces by worker, nodes by the team's first worker and their
// order.
struct StreamKNode {
  int first_post, posted;
  bool root;       // the item is whole
  bool merges_on;  // this worker merges the node above, too; else it is to be posted as
  int post;
};

KVASIR_HD StreamKNode stream_k_node(const StreamKTeam& team, int slots, int level, int fan_bits) {
  const int bits = level * fan_bits, above = bits + fan_bits, order = team.place >> above, begin = order << above;
  const int most = begin + (1 << above), end = most < team.count ? most : team.count;
  return {level * slots + team.first + (begin >> bits), (end - begin - 1) >> bits, begin == 0 && end == team.count,
          team.merges(above + fan_bits), (level + 1) * slots + team.first + order};
}

inline constexpr int kShortItem = 64, kShortJoin = 8;

// How many of `slots` workers take part. Short lines: none gets less than `least` tiles, for below that joining partials costs
// more than reading tiles side by side saves. Items of one length: as many workers for each, if that leaves few idle; then no
// run holds parts of two items, and none at all where an item has one worker. Short ones among them, of up to kShortItem tiles,
// are shared by kShortJoin workers at most, where these are a third of the slots: on a GPU so many saturate the memory, and fewer
// partials are joined sooner.
KVASIR_HD int stream_k_workers(int64_t total, int64_t items, int64_t longest, int slots, int least) {
  if (total <= 0) return 0;
  int64_t workers = least == 1 ? total : stream_k_scale(total, 1, least);
  if (workers < 1) workers = 1;
  if (workers > slots) workers = slots;
  if (items * longest == total && items <= slots) {
    const int64_t even = stream_k_scale(workers, 1, items) * items, few = items * kShortJoin;
    if (even > 0 && even * 8 >= workers * 7) workers = even;
    if (longest <= kShortItem && workers > few && few * 3 >= slots) workers = few;
  }
  return static_cast<int>(workers);
}

}  // namespace kvasir
