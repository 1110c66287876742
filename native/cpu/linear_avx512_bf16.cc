// The matrix product for AVX-512 with the bf16 dot product.
#include <algorithm>
#include <type_traits>

#include "linear.h"
#include "simd_x86.h"

#if KVASIR_SIMD_X86
#define KVASIR_SIMD_AVX512_BF16
#include "simd.h"

#include "linear_kernel.h"

namespace kvasir::cpu {

const LinearKernel kLinearAvx512Bf16 = KVASIR_SIMD_NAMESPACE::kLinear;

}  // namespace kvasir::cpu

#endif
