// rms_norm, silu_mul, embedding, cast, cross_entropy, compare_logits and probe_read against host loops in float64.
#include "harness.h"

namespace driver {

namespace {

const int32_t kDtypes[] = {KVASIR_F32, KVASIR_F16, KVASIR_BF16};

void rms_norm(Gpu& gpu, int32_t dtype, int64_t rows, int64_t hidden, bool fused, int64_t pitch) {
  Array x = gpu.random(dtype, {rows, hidden}, 1.f, pitch), weight = gpu.random(dtype, {hidden}),
        out = gpu.poisoned(dtype, {rows, hidden}, pitch);
  Array residual = gpu.random(dtype, {rows, hidden}), before = residual;
  kvasir_rms_norm_args args{};
  args.x = x.t, args.weight = weight.t, args.out = out.t, args.eps = 1e-5f;
  if (fused) args.residual = residual.t;
  gpu.run(KVASIR_OP_RMS_NORM, args);
  gpu.fetch(out), gpu.fetch(residual);
  Compare compare("rms_norm " + name_of(dtype) + " hidden " + std::to_string(hidden) + (fused ? " with residual" : ""), 1e-6,
                  relative_error(dtype));
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0;
    std::vector<double> row(static_cast<size_t>(hidden));
    for (int64_t i = 0; i < hidden; ++i) {
      const float value = fused ? round_to(dtype, before.at(r, i) + x.at(r, i)) : x.at(r, i);
      row[static_cast<size_t>(i)] = value;
      if (fused) compare(residual.at(r, i), value);
      sum += static_cast<double>(value) * value;
    }
    const double scale = 1 / std::sqrt(sum / static_cast<double>(hidden) + 1e-5);
    for (int64_t i = 0; i < hidden; ++i) compare(out.at(r, i), row[static_cast<size_t>(i)] * scale * weight.at(i));
  }
}

void silu_mul(Gpu& gpu, int32_t dtype, int64_t rows, int64_t width, int64_t pitch) {
  Array gate = gpu.random(dtype, {rows, width}, 3.f, pitch), up = gpu.random(dtype, {rows, width}, 1.f, pitch),
        out = gpu.poisoned(dtype, {rows, width});
  kvasir_silu_mul_args args{gate.t, up.t, out.t};
  gpu.run(KVASIR_OP_SILU_MUL, args);
  gpu.fetch(out);
  Compare compare("silu_mul " + name_of(dtype) + " width " + std::to_string(width), 1e-6, relative_error(dtype));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < width; ++i) {
      const double g = gate.at(r, i);
      compare(out.at(r, i), g / (1 + std::exp(-g)) * up.at(r, i));
    }
  }
}

void embedding(Gpu& gpu, int32_t dtype, int64_t hidden) {
  Array table = gpu.random(dtype, {11, hidden}), out = gpu.poisoned(dtype, {5, hidden});
  const std::vector<int> ids = {3, 0, 10, 11, -1};
  kvasir_embedding_args args{gpu.ints(ids), table.t, out.t};
  gpu.run(KVASIR_OP_EMBEDDING, args);
  gpu.fetch(out);
  bool same = true;
  for (int64_t r = 0; r < 5; ++r) {
    for (int64_t i = 0; i < hidden; ++i)
      same = same && (r < 3 ? out.at(r, i) == table.at(ids[static_cast<size_t>(r)], i) : std::isnan(out.at(r, i)));
  }
  expect(same, "embedding " + name_of(dtype) + " hidden " + std::to_string(hidden));
}

void cast(Gpu& gpu, int32_t from, int32_t to, int64_t rows, int64_t columns, int64_t pitch) {
  Array x = gpu.random(from, {rows, columns}, 1.f, pitch), out = gpu.poisoned(to, {rows, columns});
  kvasir_cast_args args{x.t, out.t};
  gpu.run(KVASIR_OP_CAST, args);
  gpu.fetch(out);
  bool same = true;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < columns; ++i) same = same && out.at(r, i) == round_to(to, x.at(r, i));
  }
  expect(same, "cast " + name_of(from) + " to " + name_of(to) + " " + std::to_string(rows) + " x " + std::to_string(columns));
}

void cast_transposed(Gpu& gpu, int32_t to) {
  Array x = gpu.random(KVASIR_F32, {7, 5, 3}), out = gpu.poisoned(to, {3, 7, 5});
  kvasir_cast_args args{x.t, out.t};
  const int axes[3] = {2, 0, 1};
  for (int d = 0; d < 3; ++d) args.x.shape[d] = x.t.shape[axes[d]], args.x.stride[d] = x.t.stride[axes[d]];
  gpu.run(KVASIR_OP_CAST, args);
  gpu.fetch(out);
  bool same = true;
  for (int64_t a = 0; a < 3; ++a) {
    for (int64_t b = 0; b < 7; ++b) {
      for (int64_t c = 0; c < 5; ++c) same = same && out.at(a, b, c) == round_to(to, x.at(b, c, a));
    }
  }
  expect(same, "cast of a transposed view to " + name_of(to));
}

struct Softmax {
  std::vector<double> log_probability;
  int64_t best = 0;
};
Softmax softmax(const Array& logits, int64_t row, int64_t vocab) {
  Softmax s;
  for (int64_t i = 0; i < vocab; ++i) {
    if (logits.at(row, i) > logits.at(row, s.best)) s.best = i;
  }
  double sum = 0;
  for (int64_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(logits.at(row, i)) - logits.at(row, s.best));
  for (int64_t i = 0; i < vocab; ++i)
    s.log_probability.push_back(static_cast<double>(logits.at(row, i)) - logits.at(row, s.best) - std::log(sum));
  return s;
}

void logit_losses(Gpu& gpu, int32_t dtype, int64_t vocab, int64_t pitch) {
  const int64_t rows = 4;
  Array logits = gpu.random(dtype, {rows, vocab}, 3.f, pitch), other = gpu.random(KVASIR_F32, {rows, vocab}, 3.f);
  Array nll = gpu.poisoned(KVASIR_F32, {rows}), kl = gpu.poisoned(KVASIR_F32, {rows});
  const std::vector<int> targets = {0, static_cast<int>(vocab) - 1, -1, static_cast<int>(vocab)};
  kvasir_cross_entropy_args loss{logits.t, gpu.ints(targets), nll.t};
  gpu.run(KVASIR_OP_CROSS_ENTROPY, loss);
  kvasir_compare_logits_args args{other.t, logits.t, kl.t, gpu.ints({-7, -7, -7, -7})};
  gpu.run(KVASIR_OP_COMPARE_LOGITS, args);
  gpu.fetch(nll), gpu.fetch(kl);
  const std::vector<int> agree = gpu.fetch_ints(args.agree);
  const std::string of = name_of(dtype) + " vocab " + std::to_string(vocab);
  expect(nll.at(2) == 0 && std::isnan(nll.at(3)), "cross_entropy of targets that are none, " + of);
  Compare compare_nll("cross_entropy " + of, 1e-5, 1e-6), compare_kl("compare_logits " + of, 1e-6, 1e-5);
  for (int64_t r = 0; r < rows; ++r) {
    const Softmax p = softmax(other, r, vocab), q = softmax(logits, r, vocab);
    if (r < 2) compare_nll(nll.at(r), -q.log_probability[static_cast<size_t>(targets[static_cast<size_t>(r)])]);
    double sum = 0;
    for (size_t i = 0; i < static_cast<size_t>(vocab); ++i)
      sum += std::exp(p.log_probability[i]) * (p.log_probability[i] - q.log_probability[i]);
    compare_kl(kl.at(r), sum);
    expect(agree[static_cast<size_t>(r)] == (p.best == q.best), "compare_logits agreement, " + of);
  }
}

void probe_read(Gpu& gpu, int64_t words, int64_t skip) {
  std::vector<int> values(static_cast<size_t>(words));
  for (int& v : values) v = static_cast<int>(generator());
  int folded = 0;
  for (size_t i = static_cast<size_t>(skip); i < values.size(); ++i) folded ^= values[i];
  kvasir_probe_read_args args{gpu.ints(values), gpu.ints({1})};
  args.x.data = static_cast<int*>(args.x.data) + skip;
  args.x.shape[0] -= skip;
  gpu.run(KVASIR_OP_PROBE_READ, args);
  expect(gpu.fetch_ints(args.out)[0] == folded, "probe_read of " + std::to_string(words - skip) + " words");
}

}  // namespace

void check_row_ops(Gpu& gpu) {
  for (const int32_t dtype : kDtypes) {
    for (const int64_t hidden : {1, 37, 64, 256, 4096, 5000}) {
      rms_norm(gpu, dtype, 3, hidden, false, 0);
      rms_norm(gpu, dtype, 3, hidden, true, hidden + 8);
    }
    for (const int64_t width : {1, 40, 1000, 4096}) silu_mul(gpu, dtype, 3, width, width + (width == 1000 ? 7 : 0));
    for (const int64_t hidden : {5, 64, 4096}) embedding(gpu, dtype, hidden);
    for (const int32_t to : kDtypes) {
      cast(gpu, dtype, to, 3, 1000, 0);
      cast(gpu, dtype, to, 5, 48, 64);
      cast(gpu, dtype, to, 5, 7, 9);
    }
    cast_transposed(gpu, dtype);
    for (const int64_t vocab : {1, 33, 1000, 4096}) logit_losses(gpu, dtype, vocab, vocab + (vocab == 33 ? 1 : 0));
    gpu.release();
  }
  for (const int64_t words : {1, 3, 4, 1023, 100000}) probe_read(gpu, words, words > 2 ? 1 : 0);
  gpu.release();
}

}  // namespace driver
