// out = gate * sigmoid(gate) * up, [rows, width] T, T = f32, f16 or bf16; computed in f32, rounded once. out may be gate or up.
#include "../common/check.h"
#include "../common/convert.cuh"
#include "../ops.h"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 256;

struct Params {
  const void *gate, *up;
  void* out;
  int64_t gate_row, up_row, out_row;  // elements
  int width, pieces;                  // CTAs a row
};

template <class T, int kCount>
__global__ void silu_mul_kernel(const Params p) {
  using V = Vector<T, kCount>;
  const int64_t row = blockIdx.x / p.pieces;
  const int i = (blockIdx.x % p.pieces * kThreads + threadIdx.x) * kCount;
  if (i >= p.width) return;
  V gate = V::load(static_cast<const T*>(p.gate) + row * p.gate_row + i);
  const V up = V::load(static_cast<const T*>(p.up) + row * p.up_row + i);
  for (int j = 0; j < kCount; ++j) {
    const float g = as_float(gate.elements[j]);
    gate.elements[j] = as_element<T>(g / (1.f + expf(-g)) * as_float(up.elements[j]));
  }
  gate.store(static_cast<T*>(p.out) + row * p.out_row + i);
}

}  // namespace

kvasir_status launch_silu_mul(kvasir_stream* stream, const kvasir_silu_mul_args& args, void*, size_t, kvasir_error* err) {
  const int64_t rows = args.gate.shape[0], width = args.gate.shape[1];
  if (rows == 0 || width == 0) return KVASIR_OK;
  return with_dtype(args.gate.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto launch = [&](auto count) {
      constexpr int kCount = decltype(count)::value;
      const int pieces = static_cast<int>((width + kThreads * kCount - 1) / (kThreads * kCount));
      const Params p = {args.gate.data,    args.up.data,       args.out.data,           args.gate.stride[0],
                        args.up.stride[0], args.out.stride[0], static_cast<int>(width), pieces};
      silu_mul_kernel<T, kCount><<<static_cast<unsigned>(rows * pieces), kThreads, 0, stream->handle()>>>(p);
    };
    const bool wide =
        width % kVectorLength<T> == 0 && rows_aligned(args.gate, 16) && rows_aligned(args.up, 16) && rows_aligned(args.out, 16);
    if (wide)
      launch(std::integral_constant<int, kVectorLength<T>>{});
    else
      launch(std::integral_constant<int, 1>{});
    return launched(stream, "silu_mul", err);
  });
}

}  // namespace kvasir::cuda
