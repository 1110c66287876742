// out[r] = index of the largest logit of row r, the lowest of equals: logits [rows, vocab] T, out [rows] i32. NaN never wins; a
// row of nothing but NaN and -inf gives 0.
#include "../common/check.h"
#include "../ops.h"
#include "logits.cuh"

namespace kvasir::cuda {

namespace {

template <class T>
__global__ void argmax_kernel(const LogitRows<T> logits, int* out, int64_t out_stride) {
  const auto row = logits.row(blockIdx.x);
  const uint64_t best = row.best();
  if (threadIdx.x == 0) out[blockIdx.x * out_stride] = static_cast<int>(static_cast<uint32_t>(best));
}

}  // namespace

kvasir_status launch_argmax(kvasir_stream* stream, const kvasir_argmax_args& args, void*, size_t, kvasir_error* err) {
  if (args.logits.shape[0] == 0) return KVASIR_OK;
  return with_dtype(args.logits.dtype, [&](auto zero) {
    argmax_kernel<<<static_cast<unsigned>(args.logits.shape[0]), kLogitThreads, 0, stream->handle()>>>(
        LogitRows<decltype(zero)>(args.logits), static_cast<int*>(args.out.data), args.out.stride[0]);
    return launched(stream, "argmax", err);
  });
}

}  // namespace kvasir::cuda
