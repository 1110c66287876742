// One token per row by temperature, top-k, top-p and a draw: logits [rows, vocab] of any floating dtype, out [rows] i32,
// parameters [rows].
//
// Weights are exp((logit - max) / temperature) in float64, ordered by falling logit, ties by index. top-k keeps the first k;
// top-p keeps the smallest prefix of those whose weight reaches top_p times theirs (at least one token); the draw takes the first
// token of what is left at which the running weight exceeds u times the whole, u = philox_uniform(seed, step). temperature 0 (or
// NaN) is argmax. NaN logits weigh nothing; +inf logits share everything.
//
// The order is never sorted in full: tokens fall into buckets by their distance from the maximum, bucket weights and counts say
// in which bucket a cut lies, and only that bucket is sorted.
#include <algorithm>
#include <bit>
#include <cmath>
#include <span>

#include "../core/philox.h"
#include "ops.h"
#include "rows.h"

namespace kvasir::cpu {
namespace {

constexpr int32_t kBuckets = 2048;
constexpr double kBucketsPerUnit = 32;  // the last bucket begins at a weight of e^-64

// Sorts by falling logit, then by rising index. -0 equals +0.
uint64_t order_key(float logit, int64_t index) {
  uint32_t bits = float_bits(logit == logit ? logit + 0.f : -INFINITY);
  bits = (bits & 0x80000000u) != 0 ? bits : ~(bits | 0x80000000u);
  return static_cast<uint64_t>(bits) << 32 | static_cast<uint64_t>(index);
}

// A prefix of the order: every bucket before `bucket` and the first `kept` tokens of it, weighing `weight` together.
struct Prefix {
  int32_t bucket;
  int64_t kept;
  double weight;
};

class RowSampler {
 public:
  static size_t scratch_bytes(int64_t vocab) {
    return static_cast<size_t>(vocab) * (2 * sizeof(uint64_t) + sizeof(int32_t)) + kBuckets * (sizeof(double) + sizeof(int64_t));
  }

  RowSampler(const RowOps& ops, const float* logits, int64_t vocab, float max, float temperature, void* scratch)
      : logits_(logits), vocab_(vocab) {
    weight_ = static_cast<double*>(scratch);
    keys_ = reinterpret_cast<uint64_t*>(weight_ + vocab);
    bucket_weight_ = reinterpret_cast<double*>(keys_ + vocab);
    bucket_count_ = reinterpret_cast<int64_t*>(bucket_weight_ + kBuckets);
    bucket_ = reinterpret_cast<int32_t*>(bucket_count_ + kBuckets);
    std::fill_n(bucket_weight_, kBuckets, 0.0);
    std::fill_n(bucket_count_, kBuckets, int64_t{0});
    ops.weigh(logits, vocab, max, 1.0 / temperature, kBucketsPerUnit, kBuckets - 1, weight_, bucket_);
    for (int64_t i = 0; i < vocab; ++i) {
      bucket_weight_[bucket_[i]] += weight_[i];
      ++bucket_count_[bucket_[i]];
    }
  }

  // The first min(k, vocab) tokens.
  Prefix first(int64_t k) {
    Prefix prefix{0, 0, 0};
    for (int64_t left = std::min(k, vocab_); prefix.bucket < kBuckets; ++prefix.bucket) {
      const int64_t count = bucket_count_[prefix.bucket];
      if (left <= count) {
        prefix.kept = left;
        if (left == count)
          prefix.weight += bucket_weight_[prefix.bucket];
        else
          for (const uint64_t key : members(prefix.bucket, left)) prefix.weight += weight_[static_cast<uint32_t>(key)];
        return prefix;
      }
      left -= count;
      prefix.weight += bucket_weight_[prefix.bucket];
    }
    return prefix;
  }

  // The shortest prefix of `whole` whose weight reaches (or, if strict, exceeds) `target`, and its last token.
  Prefix reach(const Prefix& whole, double target, bool strict, int32_t* last) {
    const auto done = [&](double weight) { return strict ? weight > target : weight >= target; };
    Prefix prefix{0, 0, 0};
    int32_t final_bucket = 0;  // the last one that weighs something: rounding may leave the target just out of reach
    for (int32_t b = 0; b <= whole.bucket; ++b) {
      if (bucket_weight_[b] > 0) final_bucket = b;
    }
    for (; prefix.bucket < final_bucket && !done(prefix.weight + bucket_weight_[prefix.bucket]); ++prefix.bucket) {
      prefix.weight += bucket_weight_[prefix.bucket];
    }
    const int64_t available = prefix.bucket == whole.bucket ? whole.kept : bucket_count_[prefix.bucket];
    for (const uint64_t key : members(prefix.bucket, available)) {
      const auto token = static_cast<uint32_t>(key);
      if (prefix.kept > 0 && weight_[token] == 0) break;
      *last = static_cast<int32_t>(token);
      prefix.weight += weight_[token];
      ++prefix.kept;
      if (done(prefix.weight)) break;
    }
    return prefix;
  }

 private:
  // The first `count` tokens of a bucket, in order.
  std::span<const uint64_t> members(int32_t bucket, int64_t count) {
    if (bucket != gathered_ || count > sorted_) {
      int64_t n = 0;
      for (int64_t i = 0; i < vocab_; ++i) {
        if (bucket_[i] == bucket) keys_[n++] = order_key(logits_[i], i);
      }
      if (count < n) std::nth_element(keys_, keys_ + count, keys_ + n);
      std::sort(keys_, keys_ + count);
      gathered_ = bucket;
      sorted_ = count;
    }
    return {keys_, static_cast<size_t>(count)};
  }

  const float* logits_;
  int64_t vocab_;
  double* weight_;  // [vocab]
  uint64_t* keys_;  // [vocab], of one bucket at a time
  double* bucket_weight_;
  int64_t* bucket_count_;
  int32_t* bucket_;  // [vocab]
  int32_t gathered_ = -1;
  int64_t sorted_ = 0;
};

template <class T>
T parameter(const kvasir_tensor& x, int64_t row, T absent) {
  return x.rank == 0 ? absent : static_cast<const T*>(x.data)[row * x.stride[0]];
}

}  // namespace

void sample(Context& context, const kvasir_sample_args& args) {
  const int64_t vocab = args.logits.shape[1];
  const RowOps& ops = row_ops(context.isa);
  const size_t row_bytes = (static_cast<size_t>(vocab) * sizeof(float) + 63) & ~size_t{63};

  context.pool.parallel_for(args.logits.shape[0], [&](int64_t row, int thread) {
    auto* buffer = static_cast<char*>(context.pool.scratch(thread, row_bytes + RowSampler::scratch_bytes(vocab)));
    const float* logits = float_row(ops, args.logits, row, reinterpret_cast<float*>(buffer));
    const int64_t best = ops.argmax(logits, vocab);
    int32_t& out = static_cast<int32_t*>(args.out.data)[row * args.out.stride[0]];
    out = static_cast<int32_t>(best);

    const float temperature = parameter(args.temperature, row, 1.f);
    if (!(temperature > 0) || !(logits[best] > -INFINITY)) return;
    RowSampler sampler(ops, logits, vocab, logits[best], temperature, buffer + row_bytes);
    const int32_t top_k = parameter(args.top_k, row, 0);
    const float top_p = parameter(args.top_p, row, 1.f);
    Prefix kept = sampler.first(top_k > 0 ? top_k : vocab);
    if (top_p < 1) kept = sampler.reach(kept, top_p * kept.weight, false, &out);
    const auto seed = static_cast<uint32_t>(parameter(args.seed, row, 0)),
               step = static_cast<uint32_t>(parameter(args.step, row, 0));
    sampler.reach(kept, philox_uniform(seed, step) * kept.weight, true, &out);
  });
}

}  // namespace kvasir::cpu
