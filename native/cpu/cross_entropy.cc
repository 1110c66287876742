// nll[r] = logsumexp(logits[r]) - logits[r][target[r]], natural log: logits [rows, vocab] of any floating dtype, targets [rows]
// i32, nll [rows] f32. The maximum is subtracted first and the sum runs in float64. A negative target gives 0; one outside the
// vocabulary gives NaN, as do rows whose softmax is not defined (a NaN or +inf logit, or nothing but -inf).
#include <cmath>

#include "ops.h"
#include "rows.h"

namespace kvasir::cpu {

void cross_entropy(Context& context, const kvasir_cross_entropy_args& args) {
  const int64_t vocab = args.logits.shape[1];
  const RowOps& ops = row_ops(context.isa);
  context.pool.parallel_for(args.logits.shape[0], [&](int64_t row, int thread) {
    float& nll = static_cast<float*>(args.nll.data)[row * args.nll.stride[0]];
    const int64_t target = static_cast<const int32_t*>(args.targets.data)[row * args.targets.stride[0]];
    if (target < 0 || target >= vocab) {
      nll = target < 0 ? 0.f : NAN;
      return;
    }
    auto* buffer = static_cast<float*>(context.pool.scratch(thread, static_cast<size_t>(vocab) * sizeof(float)));
    const float* logits = float_row(ops, args.logits, row, buffer);
    const float max = logits[ops.argmax(logits, vocab)];
    nll = static_cast<float>(std::log(ops.sum_exp(logits, vocab, max)) - (static_cast<double>(logits[target]) - max));
  });
}

}  // namespace kvasir::cpu
