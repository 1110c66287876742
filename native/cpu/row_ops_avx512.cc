// The row loops for AVX-512 (F, BW, DQ, VL).
#include "simd_x86.h"

#if KVASIR_SIMD_X86
#define KVASIR_SIMD_AVX512
#include "simd.h"

#include "row_ops_kernel.h"

namespace kvasir::cpu {

const RowOps kRowOpsAvx512 = KVASIR_SIMD_NAMESPACE::kRowOps;

}  // namespace kvasir::cpu

#endif
