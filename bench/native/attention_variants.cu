// Compiled once a head_dim, with -DHEAD_DIM=..., so that the variants build side by side.
#include "attention_variants.h"

#include "../../cuda/attention/prefill.cuh"

namespace kvasir::cuda {

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define PREFILL(...)                                                                                                          \
  {                                                                                                                           \
    using S = PrefillShape<HEAD_DIM, __VA_ARGS__>;                                                                            \
    constexpr int kBytes = prefill_smem_bytes<S, PrefillShared<S, RaggedSource>>();                                           \
    list.push_back(                                                                                                           \
        {#__VA_ARGS__, S::kRows, S::kThreads, S::kCtasPerSm, kBytes, launch_prefill<__nv_bfloat16, S, RaggedSource, false>}); \
  }
// Rows, warps, keys, stages, CTAs an SM, Q in registers.
void JOIN(prefill_variants_, HEAD_DIM)(std::vector<Variant>& list) {
#if HEAD_DIM == 64
  PREFILL(128, 4, 64, 2, 2, true)
  PREFILL(128, 4, 96, 2, 2, true)
  PREFILL(128, 4, 128, 1, 2, false)
  PREFILL(192, 4, 64, 2, 2, false)
#elif HEAD_DIM == 96
  PREFILL(128, 4, 64, 2, 2, false)
  PREFILL(128, 4, 64, 1, 2, false)
#elif HEAD_DIM == 128
  PREFILL(128, 4, 64, 2, 2, false)
  PREFILL(128, 4, 64, 1, 2, false)
  PREFILL(128, 8, 64, 2, 1, true)
#elif HEAD_DIM == 192
  PREFILL(64, 4, 64, 1, 2, true)
  PREFILL(64, 4, 80, 1, 2, true)
#elif HEAD_DIM == 256
  PREFILL(64, 4, 32, 2, 2, true)
  PREFILL(64, 4, 64, 1, 2, false)
#endif
}

}  // namespace kvasir::cuda
