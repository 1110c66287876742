// nll[r] = logsumexp(logits[r]) - logits[r][target[r]], natural log: logits [rows, vocab] T, targets [rows] i32, nll [rows] f32.
// The maximum is subtracted first; exponentials are f32, their sum over threads f64. A negative target gives 0; one outside the
// vocabulary gives NaN, as do rows whose softmax is not defined.
#include "../common/check.h"
#include "../ops.h"
#include "logits.cuh"

namespace kvasir::cuda {

namespace {

template <class T>
__global__ void cross_entropy_kernel(const LogitRows<T> logits, const int* targets, int64_t target_stride, float* nll,
                                     int64_t nll_stride) {
  const int target = targets[blockIdx.x * target_stride];
  float& result = nll[blockIdx.x * nll_stride];
  if (target < 0 || target >= logits.vocab) {  // the same for the whole CTA
    if (threadIdx.x == 0) result = target < 0 ? 0.f : NAN;
    return;
  }
  const auto row = logits.row(blockIdx.x);
  const float max = logit_of(row.best());
  float sum = 0.f;
  row.each([&](float logit, int) { sum += expf(logit - max); });
  const double total = block_reduce(static_cast<double>(sum), 0.0, Sum{});
  if (threadIdx.x == 0) result = static_cast<float>(log(total) - (static_cast<double>(as_float(row.data[target])) - max));
}

}  // namespace

kvasir_status launch_cross_entropy(kvasir_stream* stream, const kvasir_cross_entropy_args& args, void*, size_t,
                                   kvasir_error* err) {
  if (args.logits.shape[0] == 0) return KVASIR_OK;
  return with_dtype(args.logits.dtype, [&](auto zero) {
    cross_entropy_kernel<<<static_cast<unsigned>(args.logits.shape[0]), kLogitThreads, 0, stream->handle()>>>(
        LogitRows<decltype(zero)>(args.logits), static_cast<const int*>(args.targets.data), args.targets.stride[0],
        static_cast<float*>(args.nll.data), args.nll.stride[0]);
    return launched(stream, "cross_entropy", err);
  });
}

}  // namespace kvasir::cuda
