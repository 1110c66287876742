// x [total, heads, head_dim] T rotated in place by positions [total]; T = f32, f16 or bf16 (rotation.h).
#include "ops.h"
#include "rotation.h"

namespace kvasir::cpu {

void rope(Context& context, const kvasir_rope_args& args) {
  const int64_t half = args.inv_freq.shape[0];
  const int32_t* positions = static_cast<const int32_t*>(args.positions.data);
  with_element(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    context.pool.parallel_for(args.x.shape[0], [&](int64_t t, int thread) {
      float* cosine = static_cast<float*>(context.pool.scratch(thread, 2 * half * sizeof(float)));
      rotation_table(args.inv_freq, positions[t * args.positions.stride[0]], args.rope_scale, cosine, cosine + half);
      rotate_token<T>(args.x, t, cosine, cosine + half, half);
    });
  });
}

}  // namespace kvasir::cpu
