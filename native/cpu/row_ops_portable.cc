// The row loops for any machine.
#define KVASIR_SIMD_PORTABLE
#include "simd.h"

#include "row_ops_kernel.h"

namespace kvasir::cpu {

const RowOps kRowOpsPortable = KVASIR_SIMD_NAMESPACE::kRowOps;

}  // namespace kvasir::cpu
