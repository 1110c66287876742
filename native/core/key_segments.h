// Batch-invariant attention: where a row's sums are cut, whatever the call that they are part of.
//
// Keys are cut into segments at multiples of kSegmentKeys. A segment's sums start from nothing, and the segments that a row sees
// are folded from the last to the first. So it changes no bit whether CTAs take one segment each or walk many, one after another.
#pragma once
#include <cstdint>

#include "platform.h"

namespace kvasir {

// A multiple of every kernel's tile. Shorter segments move more partial sums through memory; longer ones leave multiprocessors
// idle when few queries read a long context.
inline constexpr int kSegmentKeys = 960;

struct SegmentRange {
  int first = 0, count = 0;
};

// The segments that hold keys [begin, end).
KVASIR_HD SegmentRange segments_of(int begin, int end) {
  if (end <= begin) return {};
  const int first = begin / kSegmentKeys;
  return {first, (end - 1) / kSegmentKeys + 1 - first};
}

// How many workers share the segments of a row, near what is wanted: one more than a multiple of 4, so that the tiles that a
// worker walks alternate between the two stages of a pipeline, and pass through a ring of 4, as if they lay side by side.
KVASIR_HD int segment_workers(int64_t wanted) {
  const int64_t most = wanted < 1021 ? wanted : 1021;
  return most < 3 ? 1 : static_cast<int>((most + 1) / 4 * 4 + 1);
}

// The tiles [begin, end) that one of several workers walks, from the last to the first: those of every `workers`-th segment,
// counted from the last segment down. kTiles: tiles of a segment.
template <int kTiles>
struct SegmentWalk {
  int begin = 0, end = 0;  // the first tile that may be walked, and one past the first that is; nothing to walk: end <= begin
  int segment = 0;         // that the walk starts in
  int skip = 0;            // tiles of other workers between two segments of this one

  KVASIR_HD SegmentWalk(int first_tile, int end_tile, int workers, int worker)
      : begin(first_tile), end(end_tile), segment((end_tile - 1) / kTiles - worker), skip((workers - 1) * kTiles) {
    if (worker > 0) end = (segment + 1) * kTiles;
  }
  // The tile after `tile`; below `begin`: the walk has ended.
  KVASIR_HD int next(int tile) const { return is_first(tile) ? tile - 1 - skip : tile - 1; }
  // Whether a segment ends with this tile, being its first.
  KVASIR_HD static bool is_first(int tile) { return tile % kTiles == 0; }
};

}  // namespace kvasir
