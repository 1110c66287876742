// Writes k, v [total, num_kv_heads, head_dim] T into pages at slot_mapping [total], k rotated on the way in when store_rotated;
// q, when given, is rotated in place. Head h's K of slot s lies page_offsets[h][0] bytes into page s / page_size, V
// page_offsets[h][1].
#include <cstring>

#include "ops.h"
#include "rotation.h"

namespace kvasir::cpu {
namespace {

template <class T>
void append_token(const kvasir_append_args& args, int64_t t, const float* cosine, const float* sine, int64_t half) {
  const int64_t slot = static_cast<const int32_t*>(args.slot_mapping.data)[t * args.slot_mapping.stride[0]];
  if (slot < 0) return;
  const int64_t heads = args.k.shape[1], dim = args.k.shape[2];
  char* page =
      static_cast<char*>(args.pages.data) + slot / args.page_size * args.pages.stride[0] * static_cast<int64_t>(sizeof(T));
  const int64_t row = slot % args.page_size * dim;
  for (int64_t head = 0; head < heads; ++head) {
    const int32_t* offsets = static_cast<const int32_t*>(args.page_offsets.data) + head * args.page_offsets.stride[0];
    T* to = reinterpret_cast<T*>(page + offsets[0]) + row;
    memcpy(to, static_cast<const T*>(args.k.data) + t * args.k.stride[0] + head * args.k.stride[1], dim * sizeof(T));
    if (args.store_rotated) rotate_head(to, to, cosine, sine, half);
    memcpy(reinterpret_cast<T*>(page + offsets[1]) + row,
           static_cast<const T*>(args.v.data) + t * args.v.stride[0] + head * args.v.stride[1], dim * sizeof(T));
  }
}

}  // namespace

void append(Context& context, const kvasir_append_args& args) {
  const int64_t half = args.inv_freq.rank > 0 ? args.inv_freq.shape[0] : 0;
  const int32_t* positions = static_cast<const int32_t*>(args.positions.data);
  with_element(args.k.dtype, [&](auto zero) {
    using T = decltype(zero);
    context.pool.parallel_for(args.k.shape[0], [&](int64_t t, int thread) {
      float* cosine = static_cast<float*>(context.pool.scratch(thread, 2 * half * sizeof(float)));
      if (half > 0)
        rotation_table(args.inv_freq, positions[t * args.positions.stride[0]], args.rope_scale, cosine, cosine + half);
      if (args.q.rank > 0) rotate_token<T>(args.q, t, cosine, cosine + half, half);
      append_token<T>(args, t, cosine, cosine + half, half);
    });
  });
}

}  // namespace kvasir::cpu
