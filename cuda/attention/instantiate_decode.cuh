// From a plan to one instantiation of the decode kernel.
#pragma once
#include "decode.cuh"
#include "instantiate.cuh"
#include "shapes.h"

namespace kvasir::cuda {

// Calls f(Shape tag) for the plan's decode tile.
template <int kHeadDim, Loads kLoads, int kIndex = 0, class F>
cudaError_t with_decode_tile(const AttentionPlan& plan, F f) {
  static constexpr TensorCoreShape e = *find_tensor_core_shape(kHeadDim);
  if constexpr (kIndex < 3) {
    static constexpr DecodeTile tile = kLoads == Loads::bulk ? e.bulk_decode[kIndex] : e.decode[kIndex];
    if constexpr (tile.warps > 0) {
      if (plan.decode_rows == tile.rows)
        return f(DecodeShape<kHeadDim, tile.rows, tile.warps, tile.keys, tile.stages, tile.resident, tile.halves>{});
    }
    return with_decode_tile<kHeadDim, kLoads, kIndex + 1>(plan, f);
  }
  return cudaErrorInvalidValue;
}

template <int kHeadDim>
cudaError_t launch_decode_of(const AttentionPlan& plan, cudaStream_t stream) {
  return with_variant(plan, [&](auto element, auto source, auto extra) {
    using T = decltype(element);
    using Source = decltype(source);
    if (plan.bulk_copies) {
      return with_decode_tile<kHeadDim, Loads::bulk>(
          plan, [&](auto shape) { return launch_decode<T, decltype(shape), Source, extra.value, Loads::bulk>(plan, stream); });
    }
    return with_decode_tile<kHeadDim, Loads::cp_async>(
        plan, [&](auto shape) { return launch_decode<T, decltype(shape), Source, extra.value, Loads::cp_async>(plan, stream); });
  });
}

}  // namespace kvasir::cuda
