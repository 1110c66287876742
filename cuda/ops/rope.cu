// x [total, heads, head_dim] T rotated in place by positions [total] (rotation.cuh); f32 arithmetic, rounded once.
#include "../common/check.h"
#include "../ops.h"
#include "rotation.cuh"

namespace kvasir::cuda {

namespace {

struct Params {
  void* x;
  const int* positions;
  int64_t token, head, positions_stride;  // elements
  int heads;
  Rotation rotation;
};

template <class T, int kCount>
__global__ void rope_kernel(const Params p) {
  __shared__ float cosine[kMaxHalf], sine[kMaxHalf];
  fill_rotation(p.rotation, p.positions[blockIdx.x * p.positions_stride], cosine, sine);
  __syncthreads();  // the table is complete
  const int half = p.rotation.half, per_head = half / kCount, items = p.heads * per_head;
  T* token = static_cast<T*>(p.x) + blockIdx.x * p.token;
  for (int item = blockIdx.y * kRotationThreads + threadIdx.x; item < items; item += gridDim.y * kRotationThreads) {
    T* head = token + item / per_head * p.head;
    rotate_pairs<T, kCount>(head, head, item % per_head * kCount, half, cosine, sine);
  }
}

}  // namespace

kvasir_status launch_rope(kvasir_stream* stream, const kvasir_rope_args& args, void*, size_t, kvasir_error* err) {
  const int64_t total = args.x.shape[0], heads = args.x.shape[1], half = args.inv_freq.shape[0];
  if (total == 0 || heads == 0 || half == 0) return KVASIR_OK;
  if (half > kMaxHalf)
    return fail(err, KVASIR_UNSUPPORTED, "invFreq has %lld entries; the CUDA backend rotates at most %d pairs a head.",
                static_cast<long long>(half), kMaxHalf);
  const Params p = {
      args.x.data,
      static_cast<const int*>(args.positions.data),
      args.x.stride[0],
      args.x.stride[1],
      args.positions.stride[0],
      static_cast<int>(heads),
      {static_cast<const float*>(args.inv_freq.data), args.inv_freq.stride[0], args.rope_scale, static_cast<int>(half)}};
  return with_dtype(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kCount = kVectorLength<T>;
    const bool wide = half % kCount == 0 && rows_aligned(args.x, 16);
    const int64_t items = heads * half / (wide ? kCount : 1),
                  pieces = (items + 2 * kRotationThreads - 1) / (2 * kRotationThreads);
    const dim3 grid(static_cast<unsigned>(total), static_cast<unsigned>(pieces < 64 ? pieces : 64));
    if (wide)
      rope_kernel<T, kCount><<<grid, kRotationThreads, 0, stream->handle()>>>(p);
    else
      rope_kernel<T, 1><<<grid, kRotationThreads, 0, stream->handle()>>>(p);
    return launched(stream, "rope", err);
  });
}

}  // namespace kvasir::cuda
