// out = gate * sigmoid(gate) * up, [rows, width] T, T = f32, f16 or bf16; computed in f32, rounded once. out may be gate or up.
#include <algorithm>

#include "ops.h"
#include "rows.h"

namespace kvasir::cpu {

void silu_mul(Context& context, const kvasir_silu_mul_args& args) {
  const int64_t rows = args.gate.shape[0], width = args.gate.shape[1], item = dtype_bytes(args.gate.dtype);
  const RowOps& ops = row_ops(context.isa);
  constexpr int64_t kChunk = 2048;  // elements of a row at a time
  const int64_t chunks = (width + kChunk - 1) / kChunk;

  context.pool.parallel_for(rows * chunks, [&](int64_t task, int) {
    const int64_t row = task / chunks, begin = task % chunks * kChunk, count = std::min(kChunk, width - begin);
    alignas(64) float gate[kChunk], up[kChunk];
    const auto part = [&](const kvasir_tensor& x) { return static_cast<char*>(row_data(x, row)) + begin * item; };
    ops.load(args.gate.dtype, part(args.gate), count, gate);
    ops.load(args.up.dtype, part(args.up), count, up);
    ops.silu_mul(gate, up, count, gate);
    ops.store(args.out.dtype, gate, count, part(args.out));
  });
}

}  // namespace kvasir::cpu
