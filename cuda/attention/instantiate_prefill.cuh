// From a plan to one instantiation of the prefill kernel.
#pragma once
#include "instantiate.cuh"
#include "prefill.cuh"
#include "shapes.h"

namespace kvasir::cuda {

template <int kHeadDim, bool kFolded = false>
cudaError_t launch_prefill_of(const AttentionPlan& plan, cudaStream_t stream) {
  static constexpr TensorCoreShape e = *find_tensor_core_shape(kHeadDim);
  using Large =
      PrefillShape<kHeadDim, e.prefill.rows, e.prefill.warps, e.keys, e.prefill.stages, kCtasPerSm, e.prefill.q_in_registers>;
  using Small = PrefillShape<kHeadDim, e.small.rows, e.small.warps, e.keys, e.small.stages, kCtasPerSm, e.small.q_in_registers>;
  return with_variant(plan, [&](auto element, auto source, auto extra) {
    using T = decltype(element);
    if (plan.kernel == AttentionKernel::prefill)
      return launch_prefill<T, Large, decltype(source), extra.value, kFolded>(plan.params, stream);
    return launch_prefill<T, Small, decltype(source), extra.value, kFolded>(plan.params, stream);
  });
}

}  // namespace kvasir::cuda
