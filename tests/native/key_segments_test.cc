// Checks native/core/key_segments.h: ranges of segments, and walks of 1 to many workers over every short range of tiles and
// random long ones.
//
//   g++ -std=c++20 -I native/core tests/native/key_segments_test.cc -o key_segments_test && ./key_segments_test
#include "key_segments.h"

#include <algorithm>
#include <cstdio>
#include <random>
#include <vector>

namespace {

using namespace kvasir;

int64_t checks = 0, failures = 0;

void expect(bool ok, const char* law, int64_t a, int64_t b, int64_t c) {
  ++checks;
  if (!ok && ++failures <= 20)
    printf("FAILED  %s: %lld, %lld, %lld\n", law, static_cast<long long>(a), static_cast<long long>(b),
           static_cast<long long>(c));
}

void check_ranges(int begin, int end) {
  const SegmentRange range = segments_of(begin, end);
  if (end <= begin) return expect(range.count == 0, "an empty range has no segment", begin, end, range.count);
  expect(range.first * kSegmentKeys <= begin && begin < (range.first + 1) * kSegmentKeys, "the first key is in the first segment",
         begin, end, range.first);
  const int64_t past = (int64_t{range.first} + range.count) * kSegmentKeys;
  expect(end <= past && past - kSegmentKeys < end, "the last key is in the last segment", begin, end, range.count);
}

// The walks of all workers over tiles [begin, end): each tile is walked once, each worker goes down and has whole segments, and a
// worker's tiles alternate in parity and pass through a ring of 4, which stages and table entries count on.
template <int kTiles>
void check_walks(int begin, int end, int workers) {
  std::vector<int> owner(std::max(end - begin, 0), -1);
  for (int w = 0; w < workers; ++w) {
    const SegmentWalk<kTiles> walk(begin, end, workers, w);
    if (w == 0) expect(walk.end == end, "the first worker has the last tile", begin, end, workers);
    int segment = walk.segment;
    for (int tile = walk.end - 1, next; tile >= begin; tile = next) {
      next = walk.next(tile);
      expect(tile < end && owner[tile - begin] == -1, "no tile is walked twice", begin, end, tile);
      if (tile >= end) return;
      owner[tile - begin] = w;
      expect(tile / kTiles == segment, "segments follow one another by the number of workers", begin, end, tile);
      expect(next < tile && (tile - next) % 4 == 1, "the tile after is one further on in a ring of 4", begin, end, tile);
      if (walk.is_first(tile)) segment -= workers;
    }
  }
  for (int tile = begin; tile < end; ++tile) {
    expect(owner[tile - begin] >= 0, "every tile is walked", begin, end, tile);
    if (tile > begin && tile / kTiles == (tile - 1) / kTiles)
      expect(owner[tile - begin] == owner[tile - 1 - begin], "a segment is not shared", begin, end, tile);
  }
}

template <int kTiles>
void check_all(std::mt19937& random) {
  for (int workers = 1; workers <= 13; workers += 4) {
    for (int begin = 0; begin < 3 * kTiles; begin += 1 + begin % 3) {
      for (int end = 0; end < 5 * kTiles; ++end) check_walks<kTiles>(begin, end, workers);
    }
    for (int i = 0; i < 200; ++i) {
      const int end = static_cast<int>(random() % 3000), begin = static_cast<int>(random() % 3000);
      check_walks<kTiles>(begin, end, segment_workers(random() % 1500));
    }
  }
}

}  // namespace

int main() {
  std::mt19937 random(1);
  for (int i = 0; i < 300000; ++i) {
    const int end = static_cast<int>(random() % (i % 3 == 0 ? 0x7fffff00u : 5000u));
    check_ranges(static_cast<int>(random() % (i % 5 == 0 ? 0x7fffff00u : 5000u)), end);
  }
  for (int64_t wanted = 0; wanted < 3000; ++wanted) {
    const int workers = segment_workers(wanted);
    expect(workers % 4 == 1 && workers <= 1021, "one more than a multiple of 4", wanted, workers, 0);
    expect(wanted > 1021 || std::abs(workers - wanted) <= 2, "near what is wanted", wanted, workers, 0);
  }
  check_all<10>(random);  // 960 keys in tiles of 96, 64, 80 and 32
  check_all<15>(random);
  check_all<12>(random);
  check_all<30>(random);
  printf("%lld checks, %lld failed\n", static_cast<long long>(checks), static_cast<long long>(failures));
  return failures == 0 ? 0 : 1;
}
