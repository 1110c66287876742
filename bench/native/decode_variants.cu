// Compiled once a head_dim, with -DHEAD_DIM=..., so that the variants build side by side.
#define KVASIR_ALL_LOADS
#include "decode_variants.h"

#include "../../cuda/attention/decode.cuh"

namespace kvasir::cuda {
namespace {

template <class S, Loads kLoads>
void add(std::vector<DecodeVariant>& list, const char* name) {
  list.push_back({name, kLoads == Loads::bulk, S::kRows, S::kKeys, S::kResident, DecodeLayout<S>::kBytes,
                  launch_decode<__nv_bfloat16, S, PagedSource, false, kLoads>});
}

}  // namespace

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define DECODE(...)                                                             \
  {                                                                             \
    using S = DecodeShape<HEAD_DIM, __VA_ARGS__>;                               \
    if constexpr (S::kHalves == 1) add<S, Loads::cp_async>(list, #__VA_ARGS__); \
    add<S, Loads::bulk>(list, #__VA_ARGS__);                                    \
  }

void JOIN(decode_variants_, HEAD_DIM)(std::vector<DecodeVariant>& list) {
#if HEAD_DIM == 64
  DECODE(8, 4, 32, 3, 2)
  DECODE(8, 8, 32, 3, 1)
#elif HEAD_DIM == 96
  DECODE(8, 4, 32, 3, 1)
  DECODE(8, 4, 16, 4, 2)
#elif HEAD_DIM == 128
  DECODE(8, 4, 16, 3, 2)
  DECODE(8, 4, 32, 3, 1)
  DECODE(8, 8, 16, 3, 1)
  DECODE(16, 4, 32, 3, 1)
  DECODE(16, 4, 32, 3, 1, 2)
  DECODE(32, 4, 32, 3, 1, 2)
#elif HEAD_DIM == 192
  DECODE(8, 4, 16, 4, 1)
  DECODE(8, 4, 32, 2, 1)
#elif HEAD_DIM == 256
  DECODE(8, 4, 16, 3, 1)
  DECODE(16, 4, 16, 3, 1)
  DECODE(16, 4, 16, 3, 1, 2)
#endif
}

}  // namespace kvasir::cuda
