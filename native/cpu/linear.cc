// out = x · weightᵀ + bias: x [rows, in] T, weight [out, in] T, bias [out] T, out [rows, out] T or f32, T = f32, f16 or bf16,
// accumulated in f32 and rounded once. A row's bits depend on that row and the weights alone, so batch_invariant costs nothing
// and is always so. 16-bit operands are widened to f32; where the bf16 dot product is used instead, it takes subnormals for zero.
// linear_kernel.h has the order of summation and the blocking.
#include "linear.h"

#include <cstdlib>

#include "simd_x86.h"

namespace kvasir::cpu {
namespace {

#if KVASIR_SIMD_X86
// The bf16 dot product does twice the work of a multiply-add. AMD cores issue it as often as one, so it doubles the rate; Intel
// cores up to Emerald Rapids issue it a quarter as often, which is slower than widening. KVASIR_BF16_DOT=0|1 overrules, for
// tests.
bool bf16_dot_pays() {
  static const bool pays = [] {
    const char* asked = std::getenv("KVASIR_BF16_DOT");
    return asked != nullptr ? asked[0] == '1' : __builtin_cpu_is("amd") != 0;
  }();
  return pays;
}
#endif

const LinearKernel& kernel_for([[maybe_unused]] Isa isa) {
#if KVASIR_SIMD_X86
  switch (isa) {
    case Isa::amx:
    case Isa::avx512_bf16: return bf16_dot_pays() ? kLinearAvx512Bf16 : kLinearAvx512;
    case Isa::avx512: return kLinearAvx512;
    case Isa::avx2: return kLinearAvx2;
    case Isa::portable: break;
  }
#endif
  return kLinearPortable;
}

}  // namespace

size_t linear_workspace(const kvasir_linear_args&, int) { return 0; }  // a task's blocks live in its thread's scratch

void linear(Context& context, const kvasir_linear_args& args) {
  const int64_t rows = args.x.shape[0], columns = args.weight.shape[0];
  if (rows == 0 || columns == 0) return;
  const LinearKernel& kernel = kernel_for(context.isa);
  const LinearBlocks blocks = kernel.blocks(args);
  const int64_t across = (columns + blocks.columns - 1) / blocks.columns, down = (rows + blocks.rows - 1) / blocks.rows;
  // Tasks that follow each other share their block of weights.
  context.pool.parallel_for(across * down, [&](int64_t task, int thread) {
    void* scratch = context.pool.scratch(thread, blocks.scratch_bytes);
    kernel.run(args, blocks, task % down * blocks.rows, task / down * blocks.columns, scratch);
  });
}

}  // namespace kvasir::cpu
