// One token per row by temperature, top-k, top-p and a draw: logits [rows, vocab] T, out [rows] i32, parameters [rows].
//
// Tokens are ordered by falling logit, ties by index. Weights are exp((logit - max) / temperature) in f32, rounded to multiples
// of 2^-44, so that their sums are exact in 64-bit integers, whatever the order. top-k keeps the first k; top-p the shortest
// prefix of those whose weight reaches top_p times theirs (at least one); the draw takes the first token at which the running
// weight exceeds u times that of what is left, u = philox_uniform(seed, step). temperature 0 (or NaN) is argmax. NaN logits weigh
// nothing; +inf share everything.
//
// One CTA a row. Nothing is sorted in full: tokens fall into buckets by their distance from the maximum; a scan of bucket weights
// and counts says in which one a cut lies, and only that one is refined by its range of order keys until it fits shared memory
// and is sorted.
#include "../../native/core/philox.h"
#include "../common/check.h"
#include "../ops.h"
#include "logits.cuh"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = kLogitThreads;
constexpr int kBuckets = kThreads;     // a thread each in the scan
constexpr float kBucketsPerUnit = 32;  // the last bucket begins at a weight below 2^-44
constexpr int kSorted = 2 * kThreads;  // keys sorted at once
constexpr float kOne = 0x1p44f;        // 2^18 tokens of weight one fit 63 bits

struct Histogram {
  unsigned long long weight[kBuckets];
  unsigned int count[kBuckets];
};

struct Shared {
  Histogram tokens;  // by distance from the maximum, of the tokens still kept
  union {
    Histogram keys;            // by order key, of one bucket
    uint64_t sorted[kSorted];  // order keys of one bucket or range
  };
  unsigned long long scan[32];
  unsigned int scan_count[32];
  uint64_t lowest, highest;  // order keys of the bucket
  int found, members;
  unsigned long long before;  // weight before the bucket found
  unsigned int before_count;
  uint64_t cut;  // the last order key of the prefix
};

// What to look for: the first token at which the running weight reaches (strict: exceeds) a weight, or the running count reaches
// a count.
struct Goal {
  double weight;
  bool strict;
  unsigned int count;  // > 0: by count

  __device__ bool reached(unsigned long long w, unsigned int c) const {
    if (count > 0) return c >= count;
    const double value = static_cast<double>(w);
    return c > 0 && (strict ? value > weight : value >= weight);  // at least one token
  }
};

template <class T>
class Sampler {
 public:
  __device__ Sampler(Shared& shared, const LogitRow<T>& row, uint64_t best, float temperature)
      : s_(shared), row_(row), max_(logit_of(best)), temperature_(temperature), limit_(UINT64_MAX) {
    clear(s_.tokens);
    row_.each([&](float logit, int) {
      const float d = distance(logit);
      const int b = bucket(d);
      atomicAdd(&s_.tokens.count[b], 1u);
      const unsigned long long w = weight(d);
      if (w != 0) atomicAdd(&s_.tokens.weight[b], w);
    });
    __syncthreads();  // the histogram is complete
  }

  // Weight of all that is kept.
  __device__ unsigned long long total() { return block_reduce(s_.tokens.weight[threadIdx.x], 0ull, Sum{}); }

  // The last token of the shortest prefix that reaches the goal, which must be within reach.
  __device__ uint64_t reach(const Goal& goal) {
    find(s_.tokens, goal, 0, 0);
    bucket_ = s_.found;
    unsigned long long before = s_.before;
    unsigned int before_count = s_.before_count;
    unsigned int members = s_.tokens.count[bucket_];
    uint64_t low = 0, high = UINT64_MAX;
    if (members > kSorted) key_range(&low, &high);
    while (members > kSorted) {  // cut the range of keys in kBuckets parts and go on with one
      const int shift = max(0, 64 - __clzll(static_cast<long long>(high - low)) - 10);
      clear(s_.keys);
      each_member(low, high, [&](uint64_t key, unsigned long long w) {
        const int part = static_cast<int>((key - low) >> shift);
        atomicAdd(&s_.keys.count[part], 1u);
        if (w != 0) atomicAdd(&s_.keys.weight[part], w);
      });
      __syncthreads();
      find(s_.keys, goal, before, before_count);
      const int part = s_.found;
      before = s_.before;
      before_count = s_.before_count;
      members = s_.keys.count[part];
      low += static_cast<uint64_t>(part) << shift;
      high = min(high, low + ((uint64_t{1} << shift) - 1));
      __syncthreads();  // s_.keys gives way to s_.sorted or is cleared
    }
    return walk(goal, low, high, before, before_count);
  }

  // Drops everything after `cut`, which `reach` returned last.
  __device__ void keep_until(uint64_t cut, unsigned long long kept_weight) {
    const int b = static_cast<int>(threadIdx.x);
    const unsigned long long earlier = block_reduce(b < bucket_ ? s_.tokens.weight[b] : 0ull, 0ull, Sum{});
    if (b > bucket_) s_.tokens.weight[b] = s_.tokens.count[b] = 0;
    if (b == bucket_) {
      s_.tokens.weight[b] = kept_weight - earlier;
      s_.tokens.count[b] = kept_in_bucket_;
    }
    limit_ = cut;
    __syncthreads();
  }
  __device__ unsigned long long reached_weight() const { return reached_weight_; }

 private:
  __device__ float distance(float logit) const { return logit == max_ ? 0.f : (max_ - logit) / temperature_; }
  __device__ static int bucket(float d) {
    return d < kBuckets / kBucketsPerUnit ? static_cast<int>(d * kBucketsPerUnit) : kBuckets - 1;
  }
  __device__ static unsigned long long weight(float d) {
    return d < kBuckets / kBucketsPerUnit ? __float2ull_rn(expf(-d) * kOne) : 0;
  }

  __device__ static void clear(Histogram& h) {
    h.weight[threadIdx.x] = 0;
    h.count[threadIdx.x] = 0;
    __syncthreads();
  }

  // Tokens of the bucket that are kept and lie in the range of keys.
  template <class Visit>
  __device__ void each_member(uint64_t low, uint64_t high, const Visit& visit) {
    row_.each([&](float logit, int index) {
      const float d = distance(logit);
      if (bucket(d) != bucket_) return;
      const uint64_t key = order_key(logit, static_cast<uint32_t>(index));
      if (key >= low && key <= high && key <= limit_) visit(key, weight(d));
    });
  }

  __device__ void key_range(uint64_t* low, uint64_t* high) {
    uint64_t least = UINT64_MAX, most = 0;
    each_member(0, UINT64_MAX, [&](uint64_t key, unsigned long long) {
      least = min(least, key);
      most = max(most, key);
    });
    *low = block_reduce(least, UINT64_MAX, Least{});
    *high = ~block_reduce(~most, UINT64_MAX, Least{});
  }

  // Inclusive running sums over threads, in their order.
  __device__ void scan(unsigned long long& w, unsigned int& c) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int offset = 1; offset < 32; offset *= 2) {
      const unsigned long long other = __shfl_up_sync(0xffffffffu, w, offset);
      const unsigned int other_count = __shfl_up_sync(0xffffffffu, c, offset);
      if (lane >= offset) w += other, c += other_count;
    }
    if (lane == 31) s_.scan[warp] = w, s_.scan_count[warp] = c;
    __syncthreads();  // every warp's total is there
    for (int i = 0; i < warp; ++i) w += s_.scan[i], c += s_.scan_count[i];
    __syncthreads();  // s_.scan may be used again
  }

  // Sets s_.found to the first part at whose end the goal is reached, and s_.before to what comes before it.
  __device__ void find(const Histogram& h, const Goal& goal, unsigned long long before, unsigned int before_count) {
    const unsigned long long own = h.weight[threadIdx.x];
    const unsigned int own_count = h.count[threadIdx.x];
    unsigned long long w = own;
    unsigned int c = own_count;
    scan(w, c);
    w += before;
    c += before_count;
    if (goal.reached(w, c) && !goal.reached(w - own, c - own_count)) {
      s_.found = static_cast<int>(threadIdx.x);
      s_.before = w - own;
      s_.before_count = c - own_count;
    }
    __syncthreads();  // the one thread that found it has said so
  }

  // Sorts the members of the range and takes the first at which the goal is reached.
  __device__ uint64_t walk(const Goal& goal, uint64_t low, uint64_t high, unsigned long long before, unsigned int before_count) {
    if (threadIdx.x == 0) s_.members = 0;
    for (int i = threadIdx.x; i < kSorted; i += kThreads) s_.sorted[i] = UINT64_MAX;
    __syncthreads();
    each_member(low, high, [&](uint64_t key, unsigned long long) { s_.sorted[atomicAdd(&s_.members, 1)] = key; });
    __syncthreads();
    const int members = s_.members;
    int size = 2;
    while (size < members) size *= 2;
    for (int run = 2; run <= size; run *= 2) {  // bitonic: order keys differ, so the result does not depend on the arrival
      for (int apart = run / 2; apart > 0; apart /= 2) {
        for (int i = threadIdx.x; i < size / 2; i += kThreads) {
          const int a = 2 * apart * (i / apart) + i % apart, b = a + apart;
          const bool rising = (a & run) == 0;
          const uint64_t x = s_.sorted[a], y = s_.sorted[b];
          if ((x > y) == rising) s_.sorted[a] = y, s_.sorted[b] = x;
        }
        __syncthreads();  // this round's exchanges are done
      }
    }
    // Two neighbours a thread; the first that reaches the goal says so.
    const int i = 2 * static_cast<int>(threadIdx.x);
    const unsigned long long first = i < members ? weight(distance(logit_of(s_.sorted[i]))) : 0;
    const unsigned long long second = i + 1 < members ? weight(distance(logit_of(s_.sorted[i + 1]))) : 0;
    unsigned long long w = first + second;
    unsigned int c = (i < members) + (i + 1 < members);
    const unsigned int own_count = c;
    scan(w, c);
    w += before;
    c += before_count;
    const unsigned long long w0 = w - first - second, w1 = w - second;
    const unsigned int c0 = c - own_count, c1 = c0 + 1;
    const bool at_first = i < members && goal.reached(w1, c1) && !goal.reached(w0, c0);
    const bool at_second = i + 1 < members && goal.reached(w, c) && !goal.reached(w1, c1);
    if (at_first || at_second) {
      s_.cut = s_.sorted[i + (at_first ? 0 : 1)];
      s_.scan[0] = at_first ? w1 : w;
      s_.scan_count[0] = at_first ? c1 : c;
    }
    __syncthreads();  // the one thread that found it has said so
    reached_weight_ = s_.scan[0];
    kept_in_bucket_ = s_.scan_count[0];
    const uint64_t cut = s_.cut;
    __syncthreads();  // s_ may change again
    // Members counted from the start of the order; only those of this bucket stay in its count.
    const unsigned int earlier = static_cast<int>(threadIdx.x) < bucket_ ? s_.tokens.count[threadIdx.x] : 0u;
    kept_in_bucket_ -= block_reduce(earlier, 0u, Sum{});
    return cut;
  }

  Shared& s_;
  const LogitRow<T>& row_;
  float max_, temperature_;
  uint64_t limit_;
  int bucket_ = 0;
  unsigned long long reached_weight_ = 0;
  unsigned int kept_in_bucket_ = 0;
};

template <class V>
struct Parameter {
  const V* data;
  int64_t stride;
  V absent;
  Parameter(const kvasir_tensor& t, V otherwise)
      : data(t.rank == 0 ? nullptr : static_cast<const V*>(t.data)), stride(t.stride[0]), absent(otherwise) {}
  __device__ V operator[](int64_t row) const { return data == nullptr ? absent : data[row * stride]; }
};

struct Settings {
  Parameter<float> temperature, top_p;
  Parameter<int> top_k, seed, step;
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    sample_kernel(const LogitRows<T> logits, const Settings settings, int* out, int64_t out_stride) {
  __shared__ Shared shared;
  const int64_t r = blockIdx.x;
  const auto row = logits.row(r);
  uint64_t token = row.best();
  const float temperature = settings.temperature[r];
  if (temperature > 0 && logit_of(token) > -INFINITY) {
    Sampler<T> sampler(shared, row, token, temperature);
    unsigned long long kept = sampler.total();
    const int top_k = settings.top_k[r];
    const float top_p = settings.top_p[r];
    const float u = philox_uniform(static_cast<uint32_t>(settings.seed[r]), static_cast<uint32_t>(settings.step[r]));
    for (int cut = 0; cut < 3; ++cut) {  // by top-k, by top-p, by the draw: one body, because it is long
      if (cut == 0 && !(top_k > 0 && top_k < row.vocab)) continue;
      if (cut == 1 && !(top_p < 1)) continue;
      const Goal goal = {static_cast<double>(cut == 1 ? top_p : u) * static_cast<double>(kept), cut == 2,
                         cut == 0 ? static_cast<unsigned int>(top_k) : 0u};
      token = sampler.reach(goal);
      if (cut == 2) break;
      kept = sampler.reached_weight();
      sampler.keep_until(token, kept);
    }
  }
  if (threadIdx.x == 0) out[r * out_stride] = static_cast<int>(static_cast<uint32_t>(token));
}

}  // namespace

kvasir_status launch_sample(kvasir_stream* stream, const kvasir_sample_args& args, void*, size_t, kvasir_error* err) {
  if (args.logits.shape[0] == 0) return KVASIR_OK;
  if (args.logits.shape[1] > int64_t{1} << 18) {
    return fail(err, KVASIR_UNSUPPORTED, "logits[vocab] is %lld; the CUDA backend samples from at most 262144 tokens.",
                static_cast<long long>(args.logits.shape[1]));
  }
  const Settings settings = {Parameter<float>(args.temperature, 1.f), Parameter<float>(args.top_p, 1.f),
                             Parameter<int>(args.top_k, 0), Parameter<int>(args.seed, 0), Parameter<int>(args.step, 0)};
  return with_dtype(args.logits.dtype, [&](auto zero) {
    sample_kernel<<<static_cast<unsigned>(args.logits.shape[0]), kThreads, 0, stream->handle()>>>(
        LogitRows<decltype(zero)>(args.logits), settings, static_cast<int*>(args.out.data), args.out.stride[0]);
    return launched(stream, "sample", err);
  });
}

}  // namespace kvasir::cuda
