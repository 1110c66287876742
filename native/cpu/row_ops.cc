#include "row_ops.h"

#include "simd_x86.h"

namespace kvasir::cpu {

const RowOps& row_ops([[maybe_unused]] Isa isa) {
#if KVASIR_SIMD_X86
  if (isa >= Isa::avx512) return kRowOpsAvx512;
  if (isa == Isa::avx2) return kRowOpsAvx2;
#endif
  return kRowOpsPortable;
}

}  // namespace kvasir::cpu
