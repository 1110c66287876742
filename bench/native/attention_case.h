// Random attention problems with poison in everything that must not be read, and their float64 answer on the host.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "../../native/abi/kvasir_abi.h"
#include "../../native/core/dtype.h"

namespace kvasir::bench {

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
  std::exit(1);
}

struct Case {
  int32_t dtype = KVASIR_BF16;
  int head_dim = 128, qo_heads = 4, kv_heads = 2;
  std::vector<int> qo, kv;  // tokens a request
  int page_size = 0;        // 0: ragged
  bool causal = true;
  int window = -1;
  float soft_cap = 0, sm_scale = 0, q_gain = 1;
  bool sink = false, log_weight = false, log_weight_per_head = false, rotate = false, explicit_pages = false, per_head = false;
  bool q_start = false, use_indptr = true, invariant = false;
  int splits = 0;

  std::string name() const {
    char text[256];
    std::snprintf(text, sizeof text, "%s d%d h%d/%d b%zu q%d kv%d%s%s%s%s%s%s%s%s%s%s splits%d page%d window%d",
                  dtype_name(dtype), head_dim, qo_heads, kv_heads, qo.size(), qo[0], kv[0], causal ? " causal" : "",
                  soft_cap > 0 ? " cap" : "", sink ? " sink" : "", log_weight ? " logw" : "", rotate ? " rotate" : "",
                  explicit_pages ? " explicit" : "", per_head ? " perhead" : "", q_start ? " qstart" : "",
                  invariant ? " invariant" : "", sm_scale < 0 ? " negative" : "", splits, page_size, window);
    return text;
  }
};

inline uint16_t to_bits16(float x, int32_t dtype) { return dtype == KVASIR_BF16 ? float_to_bf16(x) : float_to_f16(x); }
inline float from_bits16(uint16_t x, int32_t dtype) { return dtype == KVASIR_BF16 ? bf16_to_float(x) : f16_to_float(x); }

// Host values (as the dtype rounds them) with their device copy; NaN where nothing was set.
struct Floats {
  int32_t dtype;
  std::vector<float> host;
  void* device = nullptr;

  Floats(int32_t type, size_t count) : dtype(type), host(count, std::numeric_limits<float>::quiet_NaN()) {}
  Floats(const Floats&) = delete;
  ~Floats() { cudaFree(device); }

  void set(size_t i, float x) { host[i] = dtype == KVASIR_F32 ? x : from_bits16(to_bits16(x, dtype), dtype); }
  void upload() {
    const size_t bytes = std::max<size_t>(host.size(), 8) * dtype_bytes(dtype);
    check(cudaMalloc(&device, bytes), "cudaMalloc");
    if (dtype == KVASIR_F32) {
      check(cudaMemcpy(device, host.data(), host.size() * 4, cudaMemcpyHostToDevice), "upload");
      return;
    }
    std::vector<uint16_t> bits(host.size());
    for (size_t i = 0; i < bits.size(); ++i) bits[i] = to_bits16(host[i], dtype);
    check(cudaMemcpy(device, bits.data(), bits.size() * 2, cudaMemcpyHostToDevice), "upload");
  }
  void download() {
    if (dtype == KVASIR_F32) {
      check(cudaMemcpy(host.data(), device, host.size() * 4, cudaMemcpyDeviceToHost), "download");
      return;
    }
    std::vector<uint16_t> bits(host.size());
    check(cudaMemcpy(bits.data(), device, bits.size() * 2, cudaMemcpyDeviceToHost), "download");
    for (size_t i = 0; i < bits.size(); ++i) host[i] = from_bits16(bits[i], dtype);
  }
};

struct Ints {
  std::vector<int> host;
  void* device = nullptr;
  Ints() = default;
  Ints(const Ints&) = delete;
  ~Ints() { cudaFree(device); }
  void upload() {
    check(cudaMalloc(&device, std::max<size_t>(host.size(), 4) * 4), "cudaMalloc");
    check(cudaMemcpy(device, host.data(), host.size() * 4, cudaMemcpyHostToDevice), "upload");
  }
};

inline kvasir_tensor view(void* data, int32_t dtype, std::vector<int64_t> shape) {
  kvasir_tensor t = {};
  t.data = data;
  t.dtype = dtype;
  t.rank = static_cast<int32_t>(shape.size());
  int64_t stride = 1;
  for (int i = t.rank - 1; i >= 0; --i) {
    t.shape[i] = shape[i];
    t.stride[i] = stride;
    stride *= shape[i];
  }
  return t;
}

// One problem on the device, and its oracle.
class Problem {
 public:
  explicit Problem(const Case& c, uint32_t seed);
  kvasir_attention_args args = {};
  Floats q, out, lse;
  // Worst absolute error of out, relative norm of it, worst error of lse (relative beyond 1); infinite when a NaN or infinity
  // misplaces.
  struct Errors {
    double out = 0, norm = 0, lse = 0;
  };
  Errors compare();
  void poison();

 private:
  struct Key {
    double position, log_weight;
    const float *k, *v;
  };
  std::vector<Key> keys_of(int request, int kv_head) const;
  const Case case_;
  int batch_, total_q_, entries_ = 0;
  Ints qo_indptr_, kv_indptr_, offsets_, row_start_, kv_len_, indices_, page_start_, page_len_, q_start_;
  Floats k_, v_, pages_, log_weight_, sink_, inv_freq_;
};

inline int pages_of(int tokens, int page_size) { return (tokens + page_size - 1) / page_size; }

inline int pool_entries(const Case& c) {  // with two spare entries a row
  int entries = 0;
  for (int kv : c.kv) entries += c.page_size > 0 ? pages_of(kv, c.page_size) + 2 : 0;
  return c.per_head ? entries * c.kv_heads : entries;
}

inline Problem::Problem(const Case& c, uint32_t seed)
    : q(c.dtype, static_cast<size_t>(std::accumulate(c.qo.begin(), c.qo.end(), 0)) * c.qo_heads * c.head_dim),
      out(c.dtype, q.host.size() + 64),
      lse(KVASIR_F32, q.host.size() / c.head_dim + 64),
      case_(c),
      batch_(static_cast<int>(c.qo.size())),
      total_q_(std::accumulate(c.qo.begin(), c.qo.end(), 0)),
      entries_(pool_entries(c)),
      k_(c.dtype,
         c.page_size > 0 ? 0 : (std::accumulate(c.kv.begin(), c.kv.end(), 0) + 3) * static_cast<size_t>(c.kv_heads) * c.head_dim),
      v_(c.dtype, k_.host.size()),
      pages_(c.dtype,
             c.page_size > 0 ? (entries_ + 3) * static_cast<size_t>(c.page_size) * c.head_dim * (2 * c.kv_heads + 1) : 0),
      log_weight_(KVASIR_F32,
                  (c.page_size > 0 ? static_cast<size_t>(entries_) * c.page_size : k_.host.size() / c.head_dim / c.kv_heads) *
                      (c.log_weight_per_head ? c.kv_heads : 1)),
      sink_(KVASIR_F32, c.qo_heads),
      inv_freq_(KVASIR_F32, c.head_dim / 2) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  const int64_t d = c.head_dim, total_kv = std::accumulate(c.kv.begin(), c.kv.end(), 0);
  for (size_t i = 0; i < q.host.size(); ++i) q.set(i, normal(rng) * c.q_gain);
  qo_indptr_.host = {0};
  for (int n : c.qo) qo_indptr_.host.push_back(qo_indptr_.host.back() + n);
  args.q = view(nullptr, c.dtype, {total_q_, c.qo_heads, d});
  if (c.page_size == 0) {
    kv_indptr_.host = {0};
    for (int n : c.kv) kv_indptr_.host.push_back(kv_indptr_.host.back() + n);
    for (int64_t i = 0; i < total_kv * c.kv_heads * d; ++i) k_.set(i, normal(rng)), v_.set(i, normal(rng));
    for (int64_t i = 0; i < total_kv * (c.log_weight_per_head ? c.kv_heads : 1); ++i) log_weight_.set(i, normal(rng));
  } else {
    const int rows = batch_ * (c.per_head ? c.kv_heads : 1), slots = entries_ + 3;
    std::vector<int> free(slots);
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), rng);
    const int64_t run = c.page_size * d, slot_elements = run * (2 * c.kv_heads + 1);  // the last run stands for another layer
    for (int h = 0; h < c.kv_heads; ++h) {
      offsets_.host.push_back(static_cast<int>((2 * h + 1) * run * dtype_bytes(c.dtype)));
      offsets_.host.push_back(static_cast<int>(2 * h * run * dtype_bytes(c.dtype)));
    }
    for (int r = 0; r < rows; ++r) {
      const int tokens = c.kv[c.per_head ? r / c.kv_heads : r], used = pages_of(tokens, c.page_size);
      row_start_.host.push_back(static_cast<int>(indices_.host.size()));
      kv_len_.host.push_back(tokens);
      int position = c.explicit_pages ? static_cast<int>(rng() % 5) : 0;
      for (int e = 0; e < used + 2; ++e) {
        const int slot = e < used ? free.back() : INT32_MAX;
        if (e < used) free.pop_back();
        const int filled = std::min(c.page_size, tokens - e * c.page_size);
        const int len = e < used ? (c.explicit_pages ? static_cast<int>(rng() % (filled + 1)) : filled) : INT32_MAX;
        indices_.host.push_back(slot);
        page_start_.host.push_back(e < used ? position : INT32_MIN);
        page_len_.host.push_back(len);
        if (e < used) position += len + (c.explicit_pages ? static_cast<int>(rng() % 40) : 0);
        for (int t = 0; e < used && t < std::min(len, filled); ++t) {
          for (int h = 0; h < c.kv_heads; ++h) {
            const size_t place = (static_cast<size_t>(indices_.host.size()) - 1) * c.page_size + t;
            if (c.log_weight_per_head)
              log_weight_.set(place * c.kv_heads + h, normal(rng));
            else if (h == 0)
              log_weight_.set(place, normal(rng));
            if (c.per_head && h != r % c.kv_heads) continue;
            for (int64_t x = 0; x < d; ++x) {
              pages_.set(slot * slot_elements + 2 * h * run + t * d + x, normal(rng));
              pages_.set(slot * slot_elements + (2 * h + 1) * run + t * d + x, normal(rng));
            }
          }
        }
      }
    }
  }
  for (int h = 0; h < c.qo_heads; ++h) sink_.set(h, normal(rng) * 3);
  for (int i = 0; i < c.head_dim / 2; ++i) inv_freq_.set(i, std::pow(10000.f, -2.f * i / c.head_dim));
  for (int b = 0; b < batch_; ++b) q_start_.host.push_back(c.kv[b] - c.qo[b] + static_cast<int>(rng() % 7) - 3);

  q.upload(), out.upload(), lse.upload();
  args.q.data = q.device;
  args.out = view(out.device, c.dtype, {total_q_, c.qo_heads, d});
  args.lse = view(lse.device, KVASIR_F32, {total_q_, c.qo_heads});
  const auto ints = [](Ints& x) {
    x.upload();
    return view(x.device, KVASIR_I32, {static_cast<int64_t>(x.host.size())});
  };
  if (c.use_indptr) args.qo_indptr = ints(qo_indptr_);
  if (c.page_size == 0) {
    k_.upload(), v_.upload();
    args.k = view(k_.device, c.dtype, {total_kv, c.kv_heads, d});
    args.v = view(v_.device, c.dtype, {total_kv, c.kv_heads, d});
    if (c.use_indptr) args.kv_indptr = ints(kv_indptr_);
  } else {
    pages_.upload();
    args.pages = view(pages_.device, c.dtype, {entries_ + 3, c.page_size * d * (2 * c.kv_heads + 1)});
    offsets_.upload();
    args.page_offsets = view(offsets_.device, KVASIR_I32, {c.kv_heads, 2});
    args.row_start = ints(row_start_);
    args.kv_len = ints(kv_len_);
    args.page_indices = ints(indices_);
    if (c.explicit_pages) args.page_start = ints(page_start_), args.page_len = ints(page_len_);
  }
  if (c.q_start) args.q_start = ints(q_start_);
  if (c.log_weight) {
    log_weight_.upload();
    const int64_t places = static_cast<int64_t>(log_weight_.host.size()) / (c.log_weight_per_head ? c.kv_heads : 1);
    args.log_weight = c.log_weight_per_head ? view(log_weight_.device, KVASIR_F32, {places, c.kv_heads})
                                            : view(log_weight_.device, KVASIR_F32, {places});
  }
  if (c.sink) sink_.upload(), args.sink = view(sink_.device, KVASIR_F32, {c.qo_heads});
  if (c.rotate) inv_freq_.upload(), args.k_inv_freq = view(inv_freq_.device, KVASIR_F32, {c.head_dim / 2});
  args.k_rope_scale = 1;
  args.sm_scale = c.sm_scale;
  args.logits_soft_cap = c.soft_cap;
  args.window_left = c.window;
  args.page_size = c.page_size;
  args.causal = c.causal;
  args.per_head_rows = c.per_head;
  args.batch_invariant = c.invariant;
  args.num_splits = c.splits;
}

inline void Problem::poison() {
  check(cudaMemset(out.device, 0xff, out.host.size() * dtype_bytes(out.dtype)), "poison");
  check(cudaMemset(lse.device, 0xff, lse.host.size() * 4), "poison");
}

inline std::vector<Problem::Key> Problem::keys_of(int request, int kv_head) const {
  const Case& c = case_;
  const int64_t d = c.head_dim;
  std::vector<Key> keys;
  const auto weight = [&](int64_t place) {
    return !c.log_weight ? 0.0
                         : static_cast<double>(log_weight_.host[c.log_weight_per_head ? place * c.kv_heads + kv_head : place]);
  };
  for (int j = 0; j < c.kv[request]; ++j) {
    if (c.page_size == 0) {
      const int64_t place = kv_indptr_.host[request] + j, at = (place * c.kv_heads + kv_head) * d;
      keys.push_back({static_cast<double>(j), weight(place), &k_.host[at], &v_.host[at]});
      continue;
    }
    const int row = c.per_head ? request * c.kv_heads + kv_head : request, entry = row_start_.host[row] + j / c.page_size;
    const int t = j % c.page_size;
    if (c.explicit_pages && t >= page_len_.host[entry]) continue;
    const int64_t run = c.page_size * d, base = indices_.host[entry] * run * (2 * c.kv_heads + 1) + t * d;
    keys.push_back({static_cast<double>(c.explicit_pages ? page_start_.host[entry] + t : j),
                    weight(static_cast<int64_t>(entry) * c.page_size + t), &pages_.host[base + (2 * kv_head + 1) * run],
                    &pages_.host[base + 2 * kv_head * run]});
  }
  return keys;
}

inline Problem::Errors Problem::compare() {
  const Case& c = case_;
  const int d = c.head_dim, group = c.qo_heads / c.kv_heads;
  const double scale = c.sm_scale == 0 ? 1 / std::sqrt(static_cast<double>(d)) : c.sm_scale;
  out.download(), lse.download();
  Errors worst;
  double error2 = 0, norm2 = 0;
  for (size_t i = 0; i < 64; ++i) {  // the guard behind the tensors is still poison
    if (!std::isnan(out.host[out.host.size() - 1 - i]) || !std::isnan(lse.host[lse.host.size() - 1 - i])) worst.out = INFINITY;
  }
#pragma omp parallel for schedule(dynamic)
  for (int pair = 0; pair < batch_ * c.qo_heads; ++pair) {
    const int b = pair / c.qo_heads, h = pair % c.qo_heads;
    std::vector<double> sum_v(d), scores;
    Errors mine;
    double mine_error2 = 0, mine_norm2 = 0;
    {
      const std::vector<Key> keys = keys_of(b, h / group);
      std::vector<std::vector<double>> k(keys.size(), std::vector<double>(d));
      for (size_t j = 0; j < keys.size(); ++j) {
        for (int x = 0; x < d; ++x) k[j][x] = keys[j].k[x];
        for (int x = 0; c.rotate && x < d / 2; ++x) {
          const double angle = static_cast<float>(keys[j].position) * inv_freq_.host[x];
          const double lo = k[j][x], hi = k[j][x + d / 2];
          k[j][x] = lo * std::cos(angle) - hi * std::sin(angle);
          k[j][x + d / 2] = hi * std::cos(angle) + lo * std::sin(angle);
        }
      }
      for (int i = 0; i < c.qo[b]; ++i) {
        const int64_t token = qo_indptr_.host[b] + i, row = token * c.qo_heads + h;
        const double position = c.q_start ? q_start_.host[b] + i : c.kv[b] - c.qo[b] + i;
        scores.assign(keys.size(), -INFINITY);
        double top = -INFINITY;
        for (size_t j = 0; j < keys.size(); ++j) {
          if ((c.causal && keys[j].position > position) || (c.window >= 0 && keys[j].position < position - c.window)) continue;
          double s = 0;
          for (int x = 0; x < d; ++x) s += q.host[row * d + x] * k[j][x];
          s *= scale;
          if (c.soft_cap > 0) s = c.soft_cap * std::tanh(s / c.soft_cap);
          scores[j] = s + keys[j].log_weight;
          top = std::max(top, scores[j]);
        }
        std::fill(sum_v.begin(), sum_v.end(), 0.0);
        double sum = 0, expected_lse = -INFINITY;
        if (top > -INFINITY) {
          const double joint = c.sink ? std::max<double>(top, sink_.host[h]) : top;
          for (size_t j = 0; j < keys.size(); ++j) {
            if (scores[j] == -INFINITY) continue;
            const double p = std::exp(scores[j] - joint);
            sum += p;
            for (int x = 0; x < d; ++x) sum_v[x] += p * keys[j].v[x];
          }
          if (c.sink) sum += std::exp(sink_.host[h] - joint);
          expected_lse = joint + std::log(sum);
        }
        for (int x = 0; x < d; ++x) {
          const double expected = sum > 0 ? sum_v[x] / sum : 0, error = std::abs(out.host[row * d + x] - expected);
          mine.out = std::isnan(error) ? INFINITY : std::max(mine.out, error);
          mine_error2 += error * error;
          mine_norm2 += expected * expected;
        }
        const double got = lse.host[row];
        const double error = got == expected_lse ? 0 : std::abs(got - expected_lse) / std::max(1.0, std::abs(expected_lse));
        mine.lse = std::isnan(error) ? INFINITY : std::max(mine.lse, error);
      }
    }
#pragma omp critical
    {
      worst.out = std::max(worst.out, mine.out);
      worst.lse = std::max(worst.lse, mine.lse);
      error2 += mine_error2;
      norm2 += mine_norm2;
    }
  }
  worst.norm = std::sqrt(error2 / std::max(norm2, 1e-30));
  if (std::isnan(worst.norm)) worst.norm = INFINITY;
  return worst;
}

}  // namespace kvasir::bench
