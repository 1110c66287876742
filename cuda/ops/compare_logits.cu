// kl[r] = KL(softmax(reference[r]) || softmax(logits[r])) in nats, agree[r] = 1 where the argmax is the same: reference, logits
// [rows, vocab] T, kl [rows] f32, agree [rows] i32. With a = reference - its max, b = logits - its max:
// kl = sum(e^a (a - b)) / sum(e^a) - log(sum(e^a) / sum(e^b)), in f64, because close distributions make it a small difference.
// Equal rows give exactly 0; rows whose softmax is not defined give NaN.
#include "../common/check.h"
#include "../ops.h"
#include "logits.cuh"

namespace kvasir::cuda {

namespace {

template <class R, class T>
__global__ void __launch_bounds__(kLogitThreads)
    compare_logits_kernel(const LogitRows<R> reference, const LogitRows<T> logits, float* kl, int64_t kl_stride, int* agree,
                          int64_t agree_stride) {
  const auto a_row = reference.row(blockIdx.x);
  const auto b_row = logits.row(blockIdx.x);
  const uint64_t best_a = a_row.best(), best_b = b_row.best();
  const double max_a = logit_of(best_a), max_b = logit_of(best_b);
  double sum_a = 0, sum_b = 0, gap = 0;
#pragma unroll 1
  for (int i = threadIdx.x; i < a_row.vocab; i += kLogitThreads) {  // bound by the exponentials, not by its loads
    const double a = as_float(a_row.data[i]) - max_a, b = as_float(b_row.data[i]) - max_b, ea = exp(a);
    sum_a += ea;
    sum_b += exp(b);
    if (ea != 0) gap += ea * (a - b);  // a token without mass adds nothing, and -inf - -inf is NaN
  }
  sum_a = block_reduce(sum_a, 0.0, Sum{});
  sum_b = block_reduce(sum_b, 0.0, Sum{});
  gap = block_reduce(gap, 0.0, Sum{});
  if (threadIdx.x == 0) {
    const double value = gap / sum_a - log(sum_a / sum_b);
    kl[blockIdx.x * kl_stride] = static_cast<float>(value < 0 ? 0 : value);  // below 0 by rounding only
    agree[blockIdx.x * agree_stride] = static_cast<uint32_t>(best_a) == static_cast<uint32_t>(best_b);
  }
}

}  // namespace

kvasir_status launch_compare_logits(kvasir_stream* stream, const kvasir_compare_logits_args& args, void*, size_t,
                                    kvasir_error* err) {
  if (args.logits.shape[0] == 0) return KVASIR_OK;
  return with_dtype(args.reference.dtype, [&](auto reference_zero) {
    return with_dtype(args.logits.dtype, [&](auto zero) {
      compare_logits_kernel<<<static_cast<unsigned>(args.logits.shape[0]), kLogitThreads, 0, stream->handle()>>>(
          LogitRows<decltype(reference_zero)>(args.reference), LogitRows<decltype(zero)>(args.logits),
          static_cast<float*>(args.kl.data), args.kl.stride[0], static_cast<int*>(args.agree.data), args.agree.stride[0]);
      return launched(stream, "compare_logits", err);
    });
  });
}

}  // namespace kvasir::cuda
