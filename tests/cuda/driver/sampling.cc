// argmax, sample and advance against the meaning in the ABI: a full sort in float64.
#include <algorithm>
#include <numeric>

#include "../../../native/core/philox.h"
#include "harness.h"

namespace driver {

namespace {

struct Setting {
  float temperature;
  int top_k;
  float top_p;
  int seed, step;
};

// The token, and how near the draw came to the next one: rounding may decide otherwise only there.
int draw(const Array& logits, int64_t row, int64_t vocab, const Setting& s, double* margin) {
  std::vector<int> order(static_cast<size_t>(vocab));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits.at(row, a) > logits.at(row, b); });
  *margin = 1;
  if (!(s.temperature > 0)) return order[0];
  const double max = logits.at(row, order[0]);
  std::vector<double> weight;
  for (const int token : order) weight.push_back(std::exp((logits.at(row, token) - max) / s.temperature));
  size_t kept = s.top_k > 0 ? std::min<size_t>(static_cast<size_t>(s.top_k), order.size()) : order.size();
  double total = std::accumulate(weight.begin(), weight.begin() + static_cast<int64_t>(kept), 0.0);
  if (s.top_p < 1) {
    double running = 0;
    size_t n = 0;
    while (n < kept && (n == 0 || running < s.top_p * total)) {
      *margin = std::min(*margin, std::fabs(running - s.top_p * total) / total);
      running += weight[n++];
    }
    *margin = std::min(*margin, std::fabs(running - s.top_p * total) / total);
    kept = n;
    total = running;
  }
  const double target = kvasir::philox_uniform(static_cast<uint32_t>(s.seed), static_cast<uint32_t>(s.step)) * total;
  double running = 0;
  for (size_t i = 0; i < kept; ++i) {
    running += weight[i];
    *margin = std::min(*margin, std::fabs(running - target) / total);
    if (running > target) return order[i];
  }
  return order[kept - 1];
}

void sample(Gpu& gpu, int32_t dtype, int64_t vocab, float scale, bool tied) {
  std::vector<Setting> settings = {{1, 0, 1, 1, 0},        {0, 0, 1, 2, 0}, {0.7f, 40, 1, 3, 5}, {1, 0, 0.9f, 4, 6},
                                   {1.3f, 50, 0.8f, 5, 7}, {1, 1, 1, 6, 8}, {1, 0, 0, 7, 9}};
  for (int i = 0; i < 25; ++i)
    settings.push_back({0.5f + 0.05f * static_cast<float>(i), i * 37, 0.3f + 0.03f * static_cast<float>(i), -i, 100 + i});
  const auto rows = static_cast<int64_t>(settings.size());
  Array logits = gpu.random(dtype, {rows, vocab}, scale, vocab + (vocab % 2));
  if (tied) {
    for (float& v : logits.values) v = round_to(dtype, std::round(v));
    logits = gpu.array(dtype, {rows, vocab}, logits.values, vocab + (vocab % 2));
  }
  std::vector<float> temperature, top_p;
  std::vector<int> top_k, seed, step;
  for (const Setting& s : settings) {
    temperature.push_back(s.temperature), top_p.push_back(s.top_p), top_k.push_back(s.top_k), seed.push_back(s.seed),
        step.push_back(s.step);
  }
  kvasir_sample_args args{};
  args.logits = logits.t, args.out = gpu.ints(std::vector<int>(settings.size(), -7));
  args.temperature = gpu.array(KVASIR_F32, {rows}, temperature).t, args.top_p = gpu.array(KVASIR_F32, {rows}, top_p).t;
  args.top_k = gpu.ints(top_k), args.seed = gpu.ints(seed), args.step = gpu.ints(step);
  gpu.run(KVASIR_OP_SAMPLE, args);
  kvasir_argmax_args best{logits.t, gpu.ints(std::vector<int>(settings.size(), -7))};
  gpu.run(KVASIR_OP_ARGMAX, best);
  const std::vector<int> got = gpu.fetch_ints(args.out), got_best = gpu.fetch_ints(best.out);
  const std::string of =
      name_of(dtype) + " vocab " + std::to_string(vocab) + " scale " + std::to_string(scale) + (tied ? " tied" : "");
  for (size_t r = 0; r < settings.size(); ++r) {
    double margin = 0;
    const int want = draw(logits, static_cast<int64_t>(r), vocab, settings[r], &margin);
    expect(
        got[r] == want || (margin < 1e-6 && got[r] >= 0 && got[r] < vocab),
        "sample " + of + " row " + std::to_string(r) + ": got " + std::to_string(got[r]) + ", expected " + std::to_string(want));
    const int top = draw(logits, static_cast<int64_t>(r), vocab, {0, 0, 1, 0, 0}, &margin);
    expect(got_best[r] == top, "argmax " + of + " row " + std::to_string(r));
  }
  gpu.release();
}

void odd_logits(Gpu& gpu) {
  const float inf = INFINITY;
  Array logits = gpu.array(KVASIR_F32, {4, 4}, {NAN, 1, NAN, -inf, -inf, -inf, NAN, -inf, 3, inf, NAN, inf, 0, -0.f, -1, -1});
  kvasir_argmax_args best{logits.t, gpu.ints({-7, -7, -7, -7})};
  gpu.run(KVASIR_OP_ARGMAX, best);
  expect(gpu.fetch_ints(best.out) == std::vector<int>({1, 0, 1, 0}), "argmax of NaN, infinities and zeros");
  kvasir_sample_args args{};
  args.logits = logits.t, args.out = gpu.ints({-7, -7, -7, -7});
  gpu.run(KVASIR_OP_SAMPLE, args);
  const std::vector<int> got = gpu.fetch_ints(args.out);
  expect(got[0] == 1 && got[1] == 0 && (got[2] == 1 || got[2] == 3) && got[3] >= 0 && got[3] < 4, "sample of NaN and infinities");
  gpu.release();
}

void advance(Gpu& gpu) {
  kvasir_advance_args args{};
  args.page_size = 16;
  args.kv_len = gpu.ints({0, 15, 16, 40, 95}), args.row_start = gpu.ints({0, 1, 2, 4, 0}),
  args.page_indices = gpu.ints({7, 3, 9, 5, 1, 2});
  args.positions = gpu.ints({-7, -7, -7, -7, -7}), args.slot_mapping = gpu.ints({-7, -7, -7, -7, -7});
  args.step = gpu.ints({1, 1, 1, 1, 1}), args.active = gpu.ints({1, 1, 1, 0, 1});
  gpu.run(KVASIR_OP_ADVANCE, args);
  expect(gpu.fetch_ints(args.positions) == std::vector<int>({0, 15, 16, 0, 95}), "advance positions");
  expect(gpu.fetch_ints(args.slot_mapping) == std::vector<int>({112, 63, 80, -1, 47}), "advance slots");
  expect(gpu.fetch_ints(args.kv_len) == std::vector<int>({1, 16, 17, 40, 96}), "advance lengths");
  expect(gpu.fetch_ints(args.step) == std::vector<int>({2, 2, 2, 1, 2}), "advance steps");
  gpu.release();
}

}  // namespace

void check_sampling(Gpu& gpu) {
  for (const int32_t dtype : {KVASIR_F32, KVASIR_F16, KVASIR_BF16}) {
    for (const int64_t vocab : {1, 31, 1000, 9001}) {
      sample(gpu, dtype, vocab, 2.f, false);
      sample(gpu, dtype, vocab, 1.f, true);
      sample(gpu, dtype, vocab, 0.01f, false);  // one bucket holds all of it
    }
  }
  odd_logits(gpu);
  advance(gpu);
}

}  // namespace driver
