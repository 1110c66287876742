// out[r] = index of the largest logit of row r, the lowest of equals: logits [rows, vocab] of any floating dtype, out [rows] i32.
// NaN never wins; a row of nothing but NaN and -inf gives 0.
#include "ops.h"
#include "rows.h"

namespace kvasir::cpu {

void argmax(Context& context, const kvasir_argmax_args& args) {
  const int64_t vocab = args.logits.shape[1];
  const RowOps& ops = row_ops(context.isa);
  context.pool.parallel_for(args.logits.shape[0], [&](int64_t row, int thread) {
    auto* buffer = static_cast<float*>(context.pool.scratch(thread, static_cast<size_t>(vocab) * sizeof(float)));
    const float* logits = float_row(ops, args.logits, row, buffer);
    static_cast<int32_t*>(args.out.data)[row * args.out.stride[0]] = static_cast<int32_t>(ops.argmax(logits, vocab));
  });
}

}  // namespace kvasir::cpu
