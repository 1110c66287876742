// From a plan to one instantiation: dtype, producer and variant become template arguments.
#pragma once
#include <type_traits>

#include "tile_source.cuh"

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

}  // namespace kvasir::cuda
