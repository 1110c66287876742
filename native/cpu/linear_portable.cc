// The matrix product for any machine.
#include <algorithm>
#include <type_traits>

#include "linear.h"

#define KVASIR_SIMD_PORTABLE
#include "simd.h"

#include "linear_kernel.h"

namespace kvasir::cpu {

const LinearKernel kLinearPortable = KVASIR_SIMD_NAMESPACE::kLinear;

}  // namespace kvasir::cpu
