// Checks native/core/stream_k.h: every short line with every small number of workers, every way of cutting very short lines into
// items and random ways of cutting longer ones, lines of up to 2^40 tiles, and the rule for the number of workers.
//
//   g++ -std=c++20 -I native/core tests/native/stream_k_test.cc -o stream_k_test && ./stream_k_test
#include "stream_k.h"

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace {

using namespace kvasir;

int64_t checks = 0, failures = 0;

void expect(bool ok, const char* law, int64_t total, int64_t workers, int64_t at) {
  ++checks;
  if (ok) return;
  if (++failures <= 20)
    printf("FAILED  %s: total %lld, workers %lld, at %lld\n", law, static_cast<long long>(total), static_cast<long long>(workers),
           static_cast<long long>(at));
}

// Runs [from, to) of the line and the owners of their tiles; of a long run only the tiles around its ends.
void check_runs(int64_t total, int workers, int from, int to) {
  for (int w = from; w < to; ++w) {
    const TileRun run = stream_k_run(total, workers, w);
    if (w == 0) expect(run.begin == 0, "the first run begins the line", total, workers, w);
    expect(run.end == (w + 1 == workers ? total : stream_k_run(total, workers, w + 1).begin), "runs have no gap and no overlap",
           total, workers, w);
    const int64_t length = run.end - run.begin;
    expect(length == total / workers || length == total / workers + (total % workers != 0), "runs are equal within one", total,
           workers, w);
    for (int64_t tile = run.begin; tile < run.end; ++tile) {
      expect(stream_k_owner(total, workers, tile) == w, "the owner of a tile is the worker whose run holds it", total, workers,
             tile);
      if (length > 800 && tile - run.begin == 400) tile = run.end - 400;
    }
  }
}

// A team's tree, as its workers walk it: `posted[i]` is the worker that posted i, -1 before, -2 once that was taken.
void check_tree(const StreamKTeam& any, int slots, int fan_bits, std::vector<int>& posted) {
  const auto put = [&](int post, int worker) {
    const bool in_range = post >= 0 && post < static_cast<int>(posted.size());
    expect(in_range && posted[static_cast<size_t>(post)] == -1, "no two partials share a post", slots, any.count, post);
    if (in_range) posted[static_cast<size_t>(post)] = worker;
  };
  int merged = 0, roots = 0;
  for (int place = 0; place < any.count; ++place) {  // in the order in which waiting needs them
    const StreamKTeam team = {any.first, any.count, place};
    const int worker = team.first + place;
    if (!team.merges(fan_bits)) {
      put(worker, worker);
      continue;
    }
    ++merged;  // its own
    for (int level = 0;; ++level) {
      const StreamKNode node = stream_k_node(team, slots, level, fan_bits);
      expect(node.posted < 1 << fan_bits, "a node has no more children than the fan", slots, any.count, place);
      for (int i = 0; i < node.posted; ++i) {
        int& from = posted[static_cast<size_t>(node.first_post + i)];
        expect(from >= team.first && from < worker, "who merges waits for workers before it alone", slots, any.count, place);
        from = -2;
        if (level == 0) ++merged;
      }
      if (node.root) ++roots;
      if (!node.root && !node.merges_on) put(node.post, worker);
      if (node.root || !node.merges_on) break;
    }
  }
  expect(merged == any.count && roots == 1, "every piece enters the one root", slots, any.count, merged);
}

// Items of the given lengths: who works on each, and where partials go.
void check_items(const std::vector<int64_t>& lengths, int workers) {
  const int64_t total = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  std::vector<int> posts(static_cast<size_t>(workers)), duties(static_cast<size_t>(workers));
  std::vector<int> by_four(10 * static_cast<size_t>(workers), -1), by_sixteen = by_four;
  int64_t begin = 0;
  for (const int64_t length : lengths) {
    const int64_t end = begin + length;
    const int first = stream_k_owner(total, workers, begin), last = stream_k_owner(total, workers, end - 1);
    for (int w = 0; w < workers; ++w) {
      const TileRun run = stream_k_run(total, workers, w);
      const bool holds = run.begin < end && run.end > begin;
      expect(holds == (first <= w && w <= last), "the workers of an item are those from its first tile's to its last tile's",
             total, workers, begin);
      if (!holds || first == last) continue;
      const StreamKTeam team = stream_k_team(total, workers, w, begin, length);
      expect(team.first == first && team.count == last - first + 1 && team.place == w - first, "a team is an item's workers",
             total, workers, begin);
      int& kept = (team.merges(2) ? duties : posts)[static_cast<size_t>(w)];
      expect(++kept == 1, "a worker posts one piece at most, and merges one item at most", total, workers, begin);
      expect(!team.merges(2) || run.begin > begin, "who merges has the end of an item", total, workers, begin);
    }
    if (first < last) {
      check_tree({first, last - first + 1, 0}, workers, 2, by_four);
      check_tree({first, last - first + 1, 0}, workers, 4, by_sixteen);
    }
    begin = end;
  }
}

// Every way of cutting lines of up to `most` tiles into items: bit i of `cuts` ends an item behind tile i.
void check_all_partitions(int most) {
  for (int total = 1; total <= most; ++total) {
    for (unsigned cuts = 0; cuts < 1u << (total - 1); ++cuts) {
      std::vector<int64_t> lengths = {1};
      for (int i = 0; i + 1 < total; ++i) {
        if (cuts >> i & 1)
          lengths.push_back(1);
        else
          ++lengths.back();
      }
      for (int workers = 1; workers <= total; ++workers) check_items(lengths, workers);
    }
  }
}

void check_random_partitions(int count) {
  std::mt19937 generator(2405);
  std::lognormal_distribution<double> spread(1.0, 1.5);
  for (int i = 0; i < count; ++i) {
    std::vector<int64_t> lengths(1 + generator() % 60);
    const double scale = 1 << generator() % 8;
    for (int64_t& length : lengths) length = 1 + static_cast<int64_t>(scale * spread(generator)) * (generator() % 3 != 0);
    if (i % 5 == 0) lengths[generator() % lengths.size()] += 5000;  // one long request among short ones
    const int64_t total = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
    for (const int workers : {1, 2, 3, 7, 132, 264, 396})
      if (workers <= total) check_items(lengths, workers);
    check_items(lengths, 1 + static_cast<int>(generator() % static_cast<uint64_t>(std::min<int64_t>(total, 500))));
  }
}

void check_worker_rule(int64_t total, int64_t items, int64_t longest, int slots, int least) {
  const int workers = stream_k_workers(total, items, longest, slots, least);
  expect(workers >= 1, "a line that has tiles has a worker", total, workers, least);
  expect(workers <= slots && workers <= total, "no more workers than slots or tiles", total, workers, slots);
  if (workers < 1 || workers > total) return;
  int64_t shortest = total;
  for (int w : {0, workers / 2, workers - 1}) {
    const TileRun run = stream_k_run(total, workers, w);
    shortest = std::min(shortest, run.end - run.begin);
  }
  expect(total < least ? workers == 1 : shortest >= least, "no run is shorter than the least", total, workers, least);
  if (items * longest != total || workers % items != 0) return;
  for (int64_t item = 0; item <= items; item += std::max<int64_t>(1, items / 64)) {
    const int w = static_cast<int>(item * (workers / items));
    const int64_t begin = w == workers ? total : stream_k_run(total, workers, w).begin;
    expect(begin == item * longest, "with as many workers for each, items begin where runs begin", total, workers, item);
  }
}

void check_workers() {
  expect(stream_k_workers(0, 0, 0, 132, 4) == 0, "an empty line has no worker", 0, 0, 0);
  for (int slots : {1, 2, 7, 64, 132, 264}) {
    for (int least : {1, 2, 3, 4, 8, 16}) {
      for (int64_t longest = 1; longest <= 60; ++longest) {
        for (int64_t items = 1; items <= 40; ++items) {
          check_worker_rule(items * longest, items, longest, slots, least);
          // One item shorter than the others: the same line, but nothing is even.
          if (items > 1 && longest > 1) check_worker_rule(items * longest - 1, items, longest, slots, least);
        }
      }
      // A line long enough for all is worked on by all, or by few less where items then share no run.
      const int64_t total = static_cast<int64_t>(slots) * least * 3 + 1;
      expect(stream_k_workers(total, 2, total - 1, slots, least) == slots, "a long ragged line uses every slot", total, slots,
             least);
      for (int64_t items = 1; items <= slots; ++items) {
        const int64_t length = 1 + static_cast<int64_t>(slots) * least / items;
        const int workers = stream_k_workers(items * length, items, length, slots, least);
        const int64_t few = static_cast<int64_t>(items) * kShortJoin;
        const bool short_items = length <= kShortItem && few * 3 >= slots && few < slots;
        expect(short_items ? workers == few : workers * 8 >= slots * 7, "evenness idles an eighth of the slots at most",
               items * length, workers, items);
      }
    }
  }
}

void check_huge() {
  const int64_t tiles = int64_t{4096} * 64 * 16384;
  // 2^25 tiles: worker * total passes 32 bits within the line.
  for (const int64_t total : {(int64_t{1} << 25) + 3, tiles - 1, tiles, tiles + 1, tiles * 256 - 1, int64_t{1} << 40}) {
    for (const int workers : {1, 2, 7, 132, 264, 1056, 4096}) {
      check_runs(total, workers, 0, workers);
      for (const int least : {1, 4}) check_worker_rule(total, 4096 * 64, 16384, workers, least);
    }
  }
  for (const int64_t items : {int64_t{1}, int64_t{13}, int64_t{4096}, int64_t{4096} * 64})
    check_worker_rule(items * 16384, items, 16384, 396, 4);
}

}  // namespace

int main() {
  for (int64_t total = 1; total <= 400; ++total)
    for (int workers = 1; workers <= std::min<int64_t>(total, 70); ++workers) check_runs(total, workers, 0, workers);
  check_all_partitions(12);
  check_random_partitions(400);
  check_workers();
  check_huge();
  printf("%lld checks, %lld failed\n", static_cast<long long>(checks), static_cast<long long>(failures));
  return failures == 0 ? 0 : 1;
}
