// linear against a host loop in float64, by cuBLASLt where it is found and by our own kernels, and its rows' bits across batch
// sizes.
#include "harness.h"

namespace driver {

namespace {

void linear(Gpu& gpu, int32_t dtype, int32_t out_dtype, int64_t rows, int64_t in, int64_t out_features, bool biased,
            bool invariant, int64_t pad) {
  Array x = gpu.random(dtype, {rows, in}, 1.f, in + pad),
        weight = gpu.random(dtype, {out_features, in}, 1.f / std::sqrt(static_cast<float>(in)), in + pad);
  Array bias = gpu.random(dtype, {out_features}), out = gpu.poisoned(out_dtype, {rows, out_features}, out_features + pad);
  kvasir_linear_args args{};
  args.x = x.t, args.weight = weight.t, args.out = out.t, args.batch_invariant = invariant;
  if (biased) args.bias = bias.t;
  gpu.run(KVASIR_OP_LINEAR, args);
  gpu.fetch(out);
  Compare compare("linear " + name_of(dtype) + " to " + name_of(out_dtype) + " " + std::to_string(rows) + " x " +
                      std::to_string(in) + " x " + std::to_string(out_features) + (biased ? " biased" : "") +
                      (invariant ? " invariant" : "") + (pad ? " padded" : ""),
                  2e-5, out_dtype == KVASIR_F32 ? 2e-5 : relative_error(dtype));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < out_features; ++c) {
      double sum = biased ? bias.at(c) : 0;
      for (int64_t i = 0; i < in; ++i) sum += static_cast<double>(x.at(r, i)) * weight.at(c, i);
      compare(out.at(r, c), sum);
    }
  }
  gpu.release();
}

// The first row alone, and within every larger batch: the same bits.
void invariance(Gpu& gpu, int32_t dtype, int64_t in, int64_t out_features) {
  const int64_t most = 300;
  Array x = gpu.random(dtype, {most, in}), weight = gpu.random(dtype, {out_features, in}, 0.05f);
  std::vector<float> first;
  bool same = true;
  for (const int64_t rows : {int64_t{1}, int64_t{2}, int64_t{16}, int64_t{17}, int64_t{64}, int64_t{65}, int64_t{128}, most}) {
    Array out = gpu.poisoned(dtype, {rows, out_features});
    kvasir_linear_args args{};
    args.x = x.t, args.weight = weight.t, args.out = out.t, args.batch_invariant = 1;
    args.x.shape[0] = rows;
    gpu.run(KVASIR_OP_LINEAR, args);
    gpu.fetch(out);
    if (rows == 1) first = out.values;
    for (size_t i = 0; i < first.size(); ++i) same = same && out.values[i] == first[i];
  }
  expect(same, "linear " + name_of(dtype) + " gives a row the same bits in every batch, " + std::to_string(in) + " x " +
                   std::to_string(out_features));
  gpu.release();
}

}  // namespace

void check_linear(Gpu& gpu) {
  for (const int32_t dtype : {KVASIR_F32, KVASIR_F16, KVASIR_BF16}) {
    for (const bool invariant : {false, true}) {
      linear(gpu, dtype, dtype, 1, 64, 64, false, invariant, 0);
      linear(gpu, dtype, dtype, 3, 1032, 200, true, invariant, 0);
      linear(gpu, dtype, KVASIR_F32, 5, 1536, 130, false, invariant, 8);
      linear(gpu, dtype, KVASIR_F32, 40, 520, 72, true, invariant, 0);
      linear(gpu, dtype, dtype, 67, 129, 33, true, invariant, 0);
      linear(gpu, dtype, dtype, 150, 256, 136, true, invariant, 3);
    }
    invariance(gpu, dtype, 1600, 192);
  }
  // Enough tiles for the largest tile shape.
  linear(gpu, KVASIR_BF16, KVASIR_BF16, 390, 72, 5700, true, true, 0);
  invariance(gpu, KVASIR_BF16, 1160, 8500);
}

}  // namespace driver
