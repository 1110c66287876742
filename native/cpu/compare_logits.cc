// kl[r] = KL(softmax(reference[r]) || softmax(logits[r])) in nats, agree[r] = 1 where the argmax is the same: reference, logits
// [rows, vocab] of any floating dtype, kl [rows] f32, agree [rows] i32. With a = reference - its max, b = logits - its max:
// kl = sum(e^a (a - b)) / sum(e^a) - log(sum(e^a) / sum(e^b)), in float64, because close distributions make it a small
// difference. Equal rows give exactly 0; rows whose softmax is not defined give NaN.
#include <cmath>

#include "ops.h"
#include "rows.h"

namespace kvasir::cpu {

void compare_logits(Context& context, const kvasir_compare_logits_args& args) {
  const int64_t vocab = args.logits.shape[1];
  const RowOps& ops = row_ops(context.isa);
  context.pool.parallel_for(args.logits.shape[0], [&](int64_t row, int thread) {
    auto* buffer = static_cast<float*>(context.pool.scratch(thread, static_cast<size_t>(2 * vocab) * sizeof(float)));
    const float* reference = float_row(ops, args.reference, row, buffer);
    const float* logits = float_row(ops, args.logits, row, buffer + vocab);
    const int64_t best_reference = ops.argmax(reference, vocab), best_logits = ops.argmax(logits, vocab);
    const SoftmaxPair sums = ops.softmax_pair(reference, reference[best_reference], logits, logits[best_logits], vocab);
    const double kl = sums.weighted_gap / sums.reference_sum - std::log(sums.reference_sum / sums.logits_sum);
    static_cast<float*>(args.kl.data)[row * args.kl.stride[0]] = static_cast<float>(kl < 0 ? 0 : kl);  // below 0 by rounding only
    static_cast<int32_t*>(args.agree.data)[row * args.agree.stride[0]] = best_reference == best_logits;
  });
}

}  // namespace kvasir::cpu
