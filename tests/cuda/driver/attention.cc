// attention against a host loop in float64: ragged and paged keys, every head_dim, grouped heads, masks, splits; poisoned page
// tails.
#include <algorithm>
#include <numeric>

#include "harness.h"

namespace driver {

namespace {

struct Case {
  const char* name;
  int32_t dtype = KVASIR_BF16;
  int64_t dim = 128, kv_heads = 2, group = 4;
  std::vector<int> qo, kv;  // lengths per request
  bool paged = false, causal = true, per_head_rows = false, explicit_pages = false, weighted = false, sink = false,
       rotate = false, invariant = false;
  int page_size = 16, window = -1, splits = 0;
  float soft_cap = 0;
};

struct Key {
  int64_t position;
  std::vector<float> k, v;
  float log_weight;
};

std::vector<int> prefix_sum(const std::vector<int>& lengths) {
  std::vector<int> sums = {0};
  for (const int n : lengths) sums.push_back(sums.back() + n);
  return sums;
}

// The arguments on the device and, per request and KV head, the keys that exist, in the order of the host.
struct Problem {
  kvasir_attention_args args{};
  Array q, out, lse, sink, inv_freq;
  std::vector<std::vector<Key>> keys;  // [request * kv_heads + head]
};

void fill_ragged(Gpu& gpu, const Case& c, Problem& p) {
  const std::vector<int> starts = prefix_sum(c.kv);
  const int64_t total = starts.back();
  // A slice of a fused buffer: rows apart by more than they hold.
  Array k = gpu.random(c.dtype, {total, c.kv_heads, c.dim}, 1.f, c.kv_heads * c.dim * 2),
        v = gpu.random(c.dtype, {total, c.kv_heads, c.dim});
  Array weight = gpu.random(KVASIR_F32, {total, c.kv_heads});
  p.args.k = k.t, p.args.v = v.t, p.args.kv_indptr = gpu.ints(starts);
  if (c.weighted) p.args.log_weight = weight.t;
  for (size_t b = 0; b < c.kv.size(); ++b) {
    for (int64_t h = 0; h < c.kv_heads; ++h) {
      for (int64_t j = 0; j < c.kv[b]; ++j) {
        Key key{j, {}, {}, c.weighted ? weight.at(starts[b] + j, h) : 0.f};
        for (int64_t i = 0; i < c.dim; ++i)
          key.k.push_back(k.at(starts[b] + j, h, i)), key.v.push_back(v.at(starts[b] + j, h, i));
        p.keys[b * static_cast<size_t>(c.kv_heads) + static_cast<size_t>(h)].push_back(key);
      }
    }
  }
}

void fill_paged(Gpu& gpu, const Case& c, Problem& p) {
  const int rows_per_request = c.per_head_rows ? static_cast<int>(c.kv_heads) : 1,
            rows = static_cast<int>(c.kv.size()) * rows_per_request;
  const auto item = static_cast<int>(kvasir::dtype_bytes(c.dtype));
  const int64_t run = c.page_size * c.dim, elements = c.kv_heads * 2 * run + 32;
  std::vector<int> row_start, kv_len, page_indices, page_start, page_len, offsets;
  int needed = 0;
  for (const int n : c.kv) needed += (n + c.page_size - 1) / c.page_size * rows_per_request;
  std::vector<int> slots(static_cast<size_t>(needed + 3));
  std::iota(slots.begin(), slots.end(), 0);
  std::shuffle(slots.begin(), slots.end(), generator);
  for (int h = 0; h < c.kv_heads; ++h) {
    for (int kv = 0; kv < 2; ++kv) offsets.push_back(static_cast<int>((32 + (h * 2 + kv) * run) * item));
  }
  std::vector<float> pool(static_cast<size_t>(needed + 3) * static_cast<size_t>(elements), NAN), weights;
  std::normal_distribution<float> normal;
  size_t next = 0;
  for (int row = 0; row < rows; ++row) {
    const int b = row / rows_per_request, length = c.kv[static_cast<size_t>(b)],
              entries = (length + c.page_size - 1) / c.page_size;
    row_start.push_back(static_cast<int>(page_indices.size()));
    kv_len.push_back(length);
    int position = 0;
    for (int e = 0; e < entries; ++e) {
      const int slot = slots[next++], in_row = std::min(c.page_size, length - e * c.page_size);
      const int valid = c.explicit_pages ? std::max(0, in_row - e % 4) : in_row;
      if (c.explicit_pages && e % 3 == 2) position += 5;  // pages need not follow each other
      page_indices.push_back(slot), page_start.push_back(position), page_len.push_back(valid);
      for (int t = 0; t < c.page_size; ++t) {
        weights.push_back(t < valid ? normal(generator) : NAN);
        if (t >= valid) continue;
        for (int64_t h = 0; h < c.kv_heads; ++h) {
          if (c.per_head_rows && h != row % rows_per_request) continue;
          Key key{c.explicit_pages ? position + t : e * c.page_size + t, {}, {}, c.weighted ? weights.back() : 0.f};
          for (int kv = 0; kv < 2; ++kv) {
            for (int64_t i = 0; i < c.dim; ++i) {
              const float value = round_to(c.dtype, normal(generator));
              pool[static_cast<size_t>(slot * elements + offsets[static_cast<size_t>(2 * h + kv)] / item + t * c.dim + i)] =
                  value;
              (kv == 0 ? key.k : key.v).push_back(value);
            }
          }
          p.keys[static_cast<size_t>(b * c.kv_heads + h)].push_back(key);
        }
      }
      position += c.page_size;
    }
    // Slack after a row, so that it can grow: nobody reads it, whatever it holds.
    page_indices.push_back(0x7fffffff), page_start.push_back(-5), page_len.push_back(99);
    weights.insert(weights.end(), static_cast<size_t>(c.page_size), NAN);
  }
  p.args.pages = gpu.array(c.dtype, {needed + 3, elements}, pool).t;
  p.args.page_offsets = gpu.ints(offsets, c.kv_heads), p.args.row_start = gpu.ints(row_start), p.args.kv_len = gpu.ints(kv_len);
  p.args.page_indices = gpu.ints(page_indices), p.args.page_size = c.page_size, p.args.per_head_rows = c.per_head_rows;
  if (c.explicit_pages) p.args.page_start = gpu.ints(page_start), p.args.page_len = gpu.ints(page_len);
  if (c.weighted) p.args.log_weight = gpu.array(KVASIR_F32, {static_cast<int64_t>(weights.size())}, weights).t;
}

double score(const Case& c, const Problem& p, const float* q, const Key& key) {
  double dot = 0;
  const int64_t half = c.rotate ? c.dim / 2 : 0;
  for (int64_t i = 0; i < c.dim; ++i) {
    double k = key.k[static_cast<size_t>(i)];
    if (i < 2 * half) {
      const double angle = static_cast<float>(key.position) * p.inv_freq.at(i % half),
                   other = key.k[static_cast<size_t>(i < half ? i + half : i - half)];
      k = round_to(c.dtype, static_cast<float>(k * std::cos(angle) + (i < half ? -other : other) * std::sin(angle)));
    }
    dot += q[i] * k;
  }
  dot /= std::sqrt(static_cast<double>(c.dim));
  if (c.soft_cap > 0) dot = c.soft_cap * std::tanh(dot / c.soft_cap);
  return dot + key.log_weight;
}

void run_case(Gpu& gpu, const Case& c) {
  const int64_t heads = c.kv_heads * c.group, requests = static_cast<int64_t>(c.qo.size());
  const std::vector<int> q_starts = prefix_sum(c.qo);
  const int64_t total = q_starts.back();
  Problem p;
  p.keys.resize(static_cast<size_t>(requests * c.kv_heads));
  p.q = gpu.random(c.dtype, {total, heads, c.dim}), p.out = gpu.poisoned(c.dtype, {total, heads, c.dim}),
  p.lse = gpu.poisoned(KVASIR_F32, {total, heads});
  p.sink = gpu.random(KVASIR_F32, {heads});
  std::vector<float> frequency;
  for (int64_t i = 0; i < c.dim / 2; ++i)
    frequency.push_back(std::pow(10000.f, -2.f * static_cast<float>(i) / static_cast<float>(c.dim)));
  p.inv_freq = gpu.array(KVASIR_F32, {c.dim / 2}, frequency);
  c.paged ? fill_paged(gpu, c, p) : fill_ragged(gpu, c, p);
  kvasir_attention_args& a = p.args;
  a.q = p.q.t, a.out = p.out.t, a.lse = p.lse.t, a.qo_indptr = gpu.ints(q_starts);
  a.k_rope_scale = 1, a.logits_soft_cap = c.soft_cap, a.window_left = c.window, a.causal = c.causal,
  a.batch_invariant = c.invariant, a.num_splits = c.splits;
  if (c.sink) a.sink = p.sink.t;
  if (c.rotate) a.k_inv_freq = p.inv_freq.t;
  gpu.run(KVASIR_OP_ATTENTION, a);
  gpu.fetch(p.out), gpu.fetch(p.lse);

  const std::string of = std::string(c.name) + " " + name_of(c.dtype) + " d" + std::to_string(c.dim) + " group " +
                         std::to_string(c.group) + " splits " + std::to_string(c.splits);
  const double half_unit = c.dtype == KVASIR_BF16 ? 0.004 : c.dtype == KVASIR_F16 ? 0.0005 : 1e-5;
  Compare compare("attention " + of, half_unit * 2, half_unit * 2), compare_lse("attention lse " + of, half_unit + 1e-5, 1e-5);
  for (int64_t b = 0; b < requests; ++b) {
    const auto at = static_cast<size_t>(b);
    for (int64_t i = 0; i < c.qo[at]; ++i) {
      const int64_t token = q_starts[at] + i, position = c.kv[at] - c.qo[at] + i;
      for (int64_t h = 0; h < heads; ++h) {
        std::vector<double> scores, result(static_cast<size_t>(c.dim), 0.0);
        std::vector<const Key*> seen;
        double max = -INFINITY, sum = 0;
        for (const Key& key : p.keys[static_cast<size_t>(b * c.kv_heads + h / c.group)]) {
          if (c.causal && key.position > position) continue;
          if (c.window >= 0 && key.position < position - c.window) continue;
          scores.push_back(score(c, p, &p.q.at(token, h), key));
          seen.push_back(&key);
          max = std::max(max, scores.back());
        }
        if (!seen.empty() && c.sink) max = std::max(max, static_cast<double>(p.sink.at(h)));
        for (size_t j = 0; j < seen.size(); ++j) {
          const double e = std::exp(scores[j] - max);
          sum += e;
          for (int64_t x = 0; x < c.dim; ++x) result[static_cast<size_t>(x)] += e * seen[j]->v[static_cast<size_t>(x)];
        }
        if (!seen.empty() && c.sink) sum += std::exp(p.sink.at(h) - max);
        compare_lse(p.lse.at(token, h), seen.empty() ? -INFINITY : max + std::log(sum));
        for (int64_t x = 0; x < c.dim; ++x)
          compare(p.out.at(token, h, x), seen.empty() ? 0 : result[static_cast<size_t>(x)] / sum);
      }
    }
  }
  gpu.release();
}

}  // namespace

void check_attention(Gpu& gpu) {
  for (const int32_t dtype : {KVASIR_BF16, KVASIR_F16, KVASIR_F32}) {
    for (const int64_t dim : {64, 96, 128, 192, 256, 40}) {
      run_case(gpu, {.name = "prefill", .dtype = dtype, .dim = dim, .qo = {33, 0, 70}, .kv = {33, 5, 131}});
      run_case(gpu, {.name = "decode", .dtype = dtype, .dim = dim, .qo = {1, 1, 1}, .kv = {1, 300, 65}, .paged = true});
    }
    run_case(gpu, {.name = "not causal", .dtype = dtype, .group = 3, .qo = {17, 2}, .kv = {100, 1}, .causal = false});
    run_case(gpu, {.name = "window", .dtype = dtype, .group = 1, .qo = {50, 3}, .kv = {80, 200}, .window = 20});
    run_case(gpu, {.name = "more queries than keys", .dtype = dtype, .qo = {40, 3}, .kv = {20, 0}});
    run_case(gpu, {.name = "soft cap, sinks, weights",
                   .dtype = dtype,
                   .group = 2,
                   .qo = {20, 1},
                   .kv = {70, 40},
                   .weighted = true,
                   .sink = true,
                   .soft_cap = 5});
    run_case(gpu, {.name = "paged prefill",
                   .dtype = dtype,
                   .dim = 64,
                   .group = 8,
                   .qo = {30, 9},
                   .kv = {61, 150},
                   .paged = true,
                   .page_size = 64});
    run_case(gpu, {.name = "explicit pages",
                   .dtype = dtype,
                   .qo = {1, 2},
                   .kv = {170, 90},
                   .paged = true,
                   .causal = false,
                   .explicit_pages = true,
                   .weighted = true});
    run_case(gpu, {.name = "rows per head",
                   .dtype = dtype,
                   .qo = {1, 1},
                   .kv = {170, 33},
                   .paged = true,
                   .per_head_rows = true,
                   .page_size = 32});
    run_case(gpu, {.name = "keys before rotation",
                   .dtype = dtype,
                   .dim = 64,
                   .qo = {1, 20},
                   .kv = {70, 45},
                   .paged = true,
                   .rotate = true});
    for (const int splits : {2, 3, 7}) {
      run_case(gpu, {.name = "split decode",
                     .dtype = dtype,
                     .qo = {1, 1, 1},
                     .kv = {700, 3, 128},
                     .paged = true,
                     .page_size = 64,
                     .splits = splits});
      run_case(gpu, {.name = "split window",
                     .dtype = dtype,
                     .qo = {1, 1},
                     .kv = {700, 300},
                     .paged = true,
                     .window = 100,
                     .splits = splits});
    }
    // Requests of no keys at both ends and between others; the runs of the workers cross from one request to the next.
    const std::vector<int> gaps = {0, 300, 0, 5, 0, 0, 520, 64, 0}, one(9, 1), four(9, 4);
    for (const int64_t dim : {64, 128, 256}) {
      run_case(gpu,
               {.name = "batch, pages of 16", .dtype = dtype, .dim = dim, .group = 5, .qo = four, .kv = gaps, .paged = true});
      run_case(gpu, {.name = "batch, ragged", .dtype = dtype, .dim = dim, .kv_heads = 1, .group = 16, .qo = one, .kv = gaps});
    }
    run_case(gpu, {.name = "batch, ragged, 4 queries", .dtype = dtype, .group = 5, .qo = four, .kv = gaps});
    run_case(gpu, {.name = "batch, pages of 16, group 16, sinks and a window",
                   .dtype = dtype,
                   .kv_heads = 1,
                   .group = 16,
                   .qo = four,
                   .kv = gaps,
                   .paged = true,
                   .sink = true,
                   .window = 200});
    run_case(gpu, {.name = "batch, 1 to 16 queries, pages of 64",
                   .dtype = dtype,
                   .group = 1,
                   .qo = {1, 16, 0, 3, 8},
                   .kv = {130, 400, 70, 0, 129},
                   .paged = true,
                   .page_size = 64});
    run_case(gpu, {.name = "batch, no keys", .dtype = dtype, .qo = {1, 1, 1}, .kv = {0, 0, 0}, .paged = true});
    run_case(
        gpu,
        {.name = "batch invariant", .dtype = dtype, .group = 1, .qo = {1, 5}, .kv = {900, 77}, .paged = true, .invariant = true});
  }
}

}  // namespace driver
