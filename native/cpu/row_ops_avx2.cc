// The row loops for AVX2.
#include "simd_x86.h"

#if KVASIR_SIMD_X86
#define KVASIR_SIMD_AVX2
#include "simd.h"

#include "row_ops_kernel.h"

namespace kvasir::cpu {

const RowOps kRowOpsAvx2 = KVASIR_SIMD_NAMESPACE::kRowOps;

}  // namespace kvasir::cpu

#endif
