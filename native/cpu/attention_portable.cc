// The attention kernels for the portable set.
#include <cmath>
#include <cstring>
#include <initializer_list>

#include "../core/merge.h"
#include "attention_plan.h"
#include "element.h"
#include "simd_x86.h"

#define KVASIR_SIMD_PORTABLE
#include "simd.h"

#include "attention_kernel.h"

namespace kvasir::cpu {

AttentionKernel attention_kernel_portable(int32_t dtype) {
  switch (dtype) {
    case KVASIR_F16: return KVASIR_SIMD_NAMESPACE::kAttention<f16_t>;
    case KVASIR_BF16: return KVASIR_SIMD_NAMESPACE::kAttention<bf16_t>;
    default: return KVASIR_SIMD_NAMESPACE::kAttention<float>;
  }
}

}  // namespace kvasir::cpu
