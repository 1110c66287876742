// out = x converted between any floating dtypes by way of f32, round to nearest even, or i32 copied: equal shapes of rank 1..4,
// any strides. float8 e4m3 saturates at 448, the other formats overflow to infinity. Dimensions that lie without gaps in both
// tensors are joined, so that contiguous data and rows apart run with 16-byte vectors.
#include "../common/check.h"
#include "../common/convert.cuh"
#include "../ops.h"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 256;

struct Layout {
  int rank = 0;
  int64_t shape[KVASIR_MAX_RANK], x_stride[KVASIR_MAX_RANK], out_stride[KVASIR_MAX_RANK];
};

Layout join_dimensions(const kvasir_tensor& x, const kvasir_tensor& out) {
  Layout l;
  for (int d = 0; d < x.rank; ++d) {
    if (x.shape[d] == 1) continue;
    const bool joined = l.rank > 0 && l.x_stride[l.rank - 1] == x.shape[d] * x.stride[d] &&
                        l.out_stride[l.rank - 1] == x.shape[d] * out.stride[d];
    const int at = joined ? l.rank - 1 : l.rank++;
    l.shape[at] = joined ? l.shape[at] * x.shape[d] : x.shape[d];
    l.x_stride[at] = x.stride[d];
    l.out_stride[at] = out.stride[d];
  }
  if (l.rank == 0) l = {1, {1}, {1}, {1}};
  return l;
}

template <class From, class To>
__device__ __forceinline__ To convert(From x) {
  if constexpr (__is_same(From, To))
    return x;  // bits: i32 and the payloads of NaN survive
  else
    return as_element<To>(as_float(x));
}

// kCount neighbours along the last dimension per thread.
template <class From, class To, int kCount>
__global__ void cast_kernel(const From* x, To* out, const Layout l, int64_t items) {
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; item < items;
       item += static_cast<int64_t>(gridDim.x) * kThreads) {
    int64_t rest = item * kCount, from = 0, to = 0;
#pragma unroll
    for (int d = KVASIR_MAX_RANK - 1; d > 0; --d) {
      if (d >= l.rank) continue;
      const int64_t above = rest / l.shape[d], at = rest - above * l.shape[d];
      from += at * l.x_stride[d];
      to += at * l.out_stride[d];
      rest = above;
    }
    from += rest * l.x_stride[0];
    to += rest * l.out_stride[0];
    Vector<From, kCount> v = Vector<From, kCount>::load(x + from);
    Vector<To, kCount> w;
#pragma unroll
    for (int j = 0; j < kCount; ++j) w.elements[j] = convert<From, To>(v.elements[j]);
    w.store(out + to);
  }
}

bool aligned(const void* data, const int64_t* stride, int rank, int64_t item, int64_t bytes) {
  bool all = reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(bytes) == 0 && stride[rank - 1] == 1;
  for (int d = 0; d + 1 < rank; ++d) all = all && stride[d] * item % bytes == 0;
  return all;
}

template <class From, class To>
void launch(const kvasir_cast_args& args, const Layout& l, int64_t count, int sm_count, cudaStream_t stream) {
  constexpr int64_t kFrom = sizeof(From), kTo = sizeof(To);
  constexpr int kCount = static_cast<int>(16 / (kFrom > kTo ? kFrom : kTo));
  const bool wide = l.shape[l.rank - 1] % kCount == 0 && aligned(args.x.data, l.x_stride, l.rank, kFrom, kCount * kFrom) &&
                    aligned(args.out.data, l.out_stride, l.rank, kTo, kCount * kTo);
  const int64_t items = wide ? count / kCount : count, needed = (items + kThreads - 1) / kThreads,
                most = static_cast<int64_t>(sm_count) * 32;
  const auto grid = static_cast<unsigned>(needed < most ? needed : most);
  const auto* x = static_cast<const From*>(args.x.data);
  auto* out = static_cast<To*>(args.out.data);
  if (wide)
    cast_kernel<From, To, kCount><<<grid, kThreads, 0, stream>>>(x, out, l, items);
  else
    cast_kernel<From, To, 1><<<grid, kThreads, 0, stream>>>(x, out, l, items);
}

}  // namespace

kvasir_status launch_cast(kvasir_stream* stream, const kvasir_cast_args& args, void*, size_t, kvasir_error* err) {
  int64_t count = 1;
  for (int d = 0; d < args.x.rank; ++d) count *= args.x.shape[d];
  if (count == 0) return KVASIR_OK;
  const Layout l = join_dimensions(args.x, args.out);
  const int sm_count = stream->device().limits().sm_count;
  if (args.x.dtype == args.out.dtype) {
    switch (dtype_bytes(args.x.dtype)) {
      case 4: launch<uint32_t, uint32_t>(args, l, count, sm_count, stream->handle()); break;
      case 2: launch<uint16_t, uint16_t>(args, l, count, sm_count, stream->handle()); break;
      default: launch<uint8_t, uint8_t>(args, l, count, sm_count, stream->handle()); break;
    }
    return launched(stream, "cast", err);
  }
  return with_any_float(args.x.dtype, [&](auto from) {
    return with_any_float(args.out.dtype, [&](auto to) {
      if constexpr (!__is_same(decltype(from), decltype(to)))
        launch<decltype(from), decltype(to)>(args, l, count, sm_count, stream->handle());
      return launched(stream, "cast", err);
    });
  });
}

}  // namespace kvasir::cuda
