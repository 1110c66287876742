// Compiled once a head_dim, with -DHEAD_DIM=..., so that the variants build side by side.
#include "attention_variants.h"

#include "../../cuda/attention/decode.cuh"
#include "../../cuda/attention/prefill.cuh"

namespace kvasir::cuda {

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define PREFILL(...)                                                                                           \
  {                                                                                                            \
    using S = PrefillShape<HEAD_DIM, __VA_ARGS__>;                                                             \
    list.push_back({#__VA_ARGS__, S::kRows, S::kThreads, S::kCtasPerSm, prefill_smem_bytes<S, RaggedSource>(), \
                    launch_prefill<__nv_bfloat16, S, RaggedSource, false>});                                   \
  }
#define DECODE(...)                                                                             \
  {                                                                                             \
    using S = DecodeShape<HEAD_DIM, __VA_ARGS__>;                                               \
    list.push_back({#__VA_ARGS__, S::kRows, S::kThreads, S::kCtasPerSm, decode_smem_bytes<S>(), \
                    launch_decode<__nv_bfloat16, S, PagedSource, false>});                      \
  }

// Prefill: rows, warps, keys, stages, CTAs an SM, Q in registers. Decode: warps, keys a unit, stages, CTAs an SM.
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

void JOIN(decode_variants_, HEAD_DIM)(std::vector<Variant>& list) {
#if HEAD_DIM == 64
  DECODE(4, 32, 3, 2)
#elif HEAD_DIM == 96
  DECODE(4, 16, 4, 2)
  DECODE(4, 32, 2, 2)
#elif HEAD_DIM == 128
  DECODE(4, 16, 3, 2)
  DECODE(2, 16, 6, 2)
#elif HEAD_DIM == 192
  DECODE(2, 16, 4, 2)
  DECODE(4, 16, 2, 2)
#elif HEAD_DIM == 256
  DECODE(2, 16, 3, 2)
#endif
}

}  // namespace kvasir::cuda
