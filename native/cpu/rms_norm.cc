// out = x / sqrt(mean(x²) + eps) * weight over the last dimension. x, out [rows, hidden] T, weight [hidden] T, T = f32, f16 or
// bf16; the arithmetic is f32 and rounds to T once. With residual [rows, hidden]: residual += x, rounded to T, and the norm is of
// what was stored, so that it does not depend on whether the sum was fused. Zhang and Sennrich 2019, arXiv 1910.07467.
#include <cmath>

#include "ops.h"
#include "rows.h"

namespace kvasir::cpu {

void rms_norm(Context& context, const kvasir_rms_norm_args& args) {
  const int64_t rows = args.x.shape[0], hidden = args.x.shape[1];
  const RowOps& ops = row_ops(context.isa);
  const int64_t padded = (hidden + 15) & ~int64_t{15};
  constexpr int64_t kRowsPerTask = 4;

  context.pool.parallel_for((rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int thread) {
    auto* values = static_cast<float*>(context.pool.scratch(thread, static_cast<size_t>(3 * padded) * sizeof(float)));
    float *sum = values + padded, *weight = sum + padded;
    ops.load(args.weight.dtype, args.weight.data, hidden, weight);
    for (int64_t row = task * kRowsPerTask; row < rows && row < (task + 1) * kRowsPerTask; ++row) {
      const float* x = float_row(ops, args.x, row, values);
      if (args.residual.rank != 0) {
        void* residual = row_data(args.residual, row);
        ops.load(args.residual.dtype, residual, hidden, sum);
        ops.add(sum, x, hidden, sum);
        ops.store(args.residual.dtype, sum, hidden, residual);
        ops.load(args.residual.dtype, residual, hidden, sum);
        x = sum;
      }
      const float mean = ops.sum_squares(x, hidden) / static_cast<float>(hidden);
      ops.scale_mul(x, 1.f / std::sqrt(mean + args.eps), weight, hidden, values);
      ops.store(args.out.dtype, values, hidden, row_data(args.out, row));
    }
  });
}

}  // namespace kvasir::cpu
