// out = x / sqrt(mean(x²) + eps) * weight over the last dimension: x, out, residual [rows, hidden] T, weight [hidden] T. With
// residual: residual += x, rounded to T, and the norm is of what was stored. f32 arithmetic, rounded once; one CTA a row, whose
// size depends on hidden alone, so that a row's bits depend on that row alone. Zhang and Sennrich 2019, arXiv 1910.07467.
#include "../common/check.h"
#include "../common/convert.cuh"
#include "../ops.h"
#include "block_reduce.cuh"

namespace kvasir::cuda {

namespace {

struct Params {
  const void *x, *weight;
  void *residual, *out;
  int64_t x_row, residual_row, out_row;  // elements
  int hidden;
  float eps;
};

template <class T, int kCount>
__global__ void rms_norm_kernel(const Params p) {
  using V = Vector<T, kCount>;
  const int64_t row = blockIdx.x;
  const T* x = static_cast<const T*>(p.x) + row * p.x_row;
  T* residual = p.residual == nullptr ? nullptr : static_cast<T*>(p.residual) + row * p.residual_row;
  float sum = 0.f;
  for (int i = threadIdx.x * kCount; i < p.hidden; i += blockDim.x * kCount) {
    V v = V::load(x + i);
    if (residual != nullptr) {
      const V r = V::load(residual + i);
      for (int j = 0; j < kCount; ++j) v.elements[j] = as_element<T>(as_float(r.elements[j]) + as_float(v.elements[j]));
      v.store(residual + i);
    }
    for (int j = 0; j < kCount; ++j) sum += as_float(v.elements[j]) * as_float(v.elements[j]);
  }
  sum = block_reduce(sum, 0.f, Sum{});
  const float scale = 1.f / sqrtf(sum / static_cast<float>(p.hidden) + p.eps);
  // Every thread reads again what it read or wrote itself.
  const T* source = residual == nullptr ? x : residual;
  T* out = static_cast<T*>(p.out) + row * p.out_row;
  for (int i = threadIdx.x * kCount; i < p.hidden; i += blockDim.x * kCount) {
    V v = V::load(source + i);
    const V w = V::load(static_cast<const T*>(p.weight) + i);
    for (int j = 0; j < kCount; ++j) v.elements[j] = as_element<T>(as_float(v.elements[j]) * scale * as_float(w.elements[j]));
    v.store(out + i);
  }
}

template <class T, int kCount>
void launch(const Params& p, int64_t rows, cudaStream_t stream) {
  const int threads = p.hidden >= 1024 * kCount ? 1024 : p.hidden >= 512 * kCount ? 512 : p.hidden >= 256 * kCount ? 256 : 128;
  rms_norm_kernel<T, kCount><<<static_cast<unsigned>(rows), threads, 0, stream>>>(p);
}

}  // namespace

kvasir_status launch_rms_norm(kvasir_stream* stream, const kvasir_rms_norm_args& args, void*, size_t, kvasir_error* err) {
  const int64_t rows = args.x.shape[0];
  if (rows == 0) return KVASIR_OK;
  const bool fused = args.residual.rank != 0;
  const Params p = {args.x.data,
                    args.weight.data,
                    fused ? args.residual.data : nullptr,
                    args.out.data,
                    args.x.stride[0],
                    args.residual.stride[0],
                    args.out.stride[0],
                    static_cast<int>(args.x.shape[1]),
                    args.eps};
  return with_dtype(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kCount = kVectorLength<T>;
    const bool wide = p.hidden % kCount == 0 && rows_aligned(args.x, 16) && rows_aligned(args.weight, 16) &&
                      rows_aligned(args.out, 16) && (!fused || rows_aligned(args.residual, 16));
    if (wide)
      launch<T, kCount>(p, rows, stream->handle());
    else
      launch<T, 1>(p, rows, stream->handle());
    return launched(stream, "rms_norm", err);
  });
}

}  // namespace kvasir::cuda
