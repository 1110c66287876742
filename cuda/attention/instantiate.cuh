// From a plan to one instantiation: dtype, producer and variant become template arguments.
#pragma once
#include <type_traits>

#include "decode.cuh"
#include "prefill.cuh"
#include "shapes.h"

namespace kvasir::cuda {

// Calls f(element tag, source tag, extra tag) for a tensor-core plan.
template <class F>
cudaError_t with_variant(const AttentionPlan& plan, F f) {
  const auto with_source = [&](auto element) {
    const auto with_extra = [&](auto source) {
      return plan.extra ? f(element, source, std::true_type{}) : f(element, source, std::false_type{});
    };
    return plan.params.paged() ? with_extra(PagedSource{}) : with_extra(RaggedSource{});
  };
  return plan.dtype == KVASIR_BF16 ? with_source(__nv_bfloat16{}) : with_source(__half{});
}

template <int kHeadDim>
cudaError_t launch_prefill_of(const AttentionPlan& plan, cudaStream_t stream) {
  static constexpr TensorCoreShape e = *find_tensor_core_shape(kHeadDim);
  using Large =
      PrefillShape<kHeadDim, e.prefill.rows, e.prefill.warps, e.keys, e.prefill.stages, kCtasPerSm, e.prefill.q_in_registers>;
  using Small = PrefillShape<kHeadDim, e.small.rows, e.small.warps, e.keys, e.small.stages, kCtasPerSm, e.small.q_in_registers>;
  return with_variant(plan, [&](auto element, auto source, auto extra) {
    using T = decltype(element);
    if (plan.kernel == AttentionKernel::prefill)
      return launch_prefill<T, Large, decltype(source), extra.value>(plan.params, stream);
    return launch_prefill<T, Small, decltype(source), extra.value>(plan.params, stream);
  });
}

template <int kHeadDim>
cudaError_t launch_decode_of(const AttentionPlan& plan, cudaStream_t stream) {
  static constexpr TensorCoreShape e = *find_tensor_core_shape(kHeadDim);
  using Shape = DecodeShape<kHeadDim, e.decode_warps, e.decode_keys, e.decode_stages, kCtasPerSm>;
  return with_variant(plan, [&](auto element, auto source, auto extra) {
    return launch_decode<decltype(element), Shape, decltype(source), extra.value>(plan.params, stream);
  });
}

}  // namespace kvasir::cuda
