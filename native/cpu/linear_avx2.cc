// The matrix product for AVX2.
#include <algorithm>
#include <type_traits>

#include "linear.h"
#include "simd_x86.h"

#if KVASIR_SIMD_X86
#define KVASIR_SIMD_AVX2
#include "simd.h"

#include "linear_kernel.h"

namespace kvasir::cpu {

const LinearKernel kLinearAvx2 = KVASIR_SIMD_NAMESPACE::kLinear;

}  // namespace kvasir::cpu

#endif
