// The attention kernels for AVX-512 (F, BW, DQ, VL).
#include <cmath>
#include <cstring>
#include <initializer_list>

#include "../core/merge.h"
#include "attention_plan.h"
#include "element.h"
#include "simd_x86.h"

#if KVASIR_SIMD_X86
#define KVASIR_SIMD_AVX512
#include "simd.h"

#include "attention_kernel.h"

namespace kvasir::cpu {

AttentionKernel attention_kernel_avx512(int32_t dtype) {
  switch (dtype) {
    case KVASIR_F16: return KVASIR_SIMD_NAMESPACE::kAttention<f16_t>;
    case KVASIR_BF16: return KVASIR_SIMD_NAMESPACE::kAttention<bf16_t>;
    default: return KVASIR_SIMD_NAMESPACE::kAttention<float>;
  }
}

}  // namespace kvasir::cpu

#endif
