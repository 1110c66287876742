// Writes k, v [total, num_kv_heads, head_dim] T into pages at slot_mapping [total], k rotated on the way in when store_rotated; q
// [total, num_qo_heads, head_dim], when given, is rotated in place. Head h's K of slot s lies page_offsets[h][0] bytes into page
// s / page_size, V page_offsets[h][1]. Slots outside the pool are skipped. One CTA a token and share of its vectors.
#include "../common/check.h"
#include "../common/dependent_launch.cuh"
#include "../ops.h"
#include "rotation.cuh"

namespace kvasir::cuda {

namespace {

struct Params {
  const void *k, *v;
  void* q;
  char* pages;
  const int *positions, *slot_mapping, *page_offsets;
  int64_t k_token, k_head, v_token, v_head, q_token, q_head;  // elements
  int64_t page_bytes, num_slots, positions_stride, slot_stride, offset_row;
  int num_kv_heads, num_qo_heads, head_dim, page_size;
  bool store_rotated;
  Rotation rotation;
};

// Items of a token: the pairs of q's heads, the pairs of k's heads (rotated or not), what rotation leaves of k, and v; kCount
// elements each.
template <class T, int kCount>
__global__ void append_kernel(const Params p) {
  release_dependents();  // attention, which may set itself up and fetch older tokens meanwhile
  using V = Vector<T, kCount>;
  __shared__ float cosine[kMaxHalf], sine[kMaxHalf];
  const int64_t token = blockIdx.x;
  const int half = p.rotation.half;
  if (half > 0) fill_rotation(p.rotation, p.positions[token * p.positions_stride], cosine, sine);
  __syncthreads();  // the table is complete
  const int slot = p.slot_mapping[token * p.slot_stride];
  const bool stored = slot >= 0 && slot < p.num_slots;
  char* page = p.pages + (stored ? slot / p.page_size : 0) * p.page_bytes;
  const int64_t row = static_cast<int64_t>(stored ? slot % p.page_size : 0) * p.head_dim;

  const int pairs = half / kCount, rest = (p.head_dim - 2 * half) / kCount, vectors = p.head_dim / kCount;
  const int q_items = p.num_qo_heads * pairs, k_items = p.num_kv_heads * pairs, rest_items = p.num_kv_heads * rest,
            v_items = p.num_kv_heads * vectors;
  const int items = q_items + (stored ? k_items + rest_items + v_items : 0);
  for (int item = blockIdx.y * kRotationThreads + threadIdx.x; item < items; item += gridDim.y * kRotationThreads) {
    int i = item;
    if (i < q_items) {
      T* head = static_cast<T*>(p.q) + token * p.q_token + i / pairs * p.q_head;
      rotate_pairs<T, kCount>(head, head, i % pairs * kCount, half, cosine, sine);
      continue;
    }
    i -= q_items;
    if (i < k_items + rest_items) {
      const bool paired = i < k_items;
      const int h = paired ? i / pairs : (i - k_items) / rest;
      const int at = paired ? i % pairs * kCount : 2 * half + (i - k_items) % rest * kCount;
      const T* from = static_cast<const T*>(p.k) + token * p.k_token + h * p.k_head;
      T* to = reinterpret_cast<T*>(page + p.page_offsets[h * p.offset_row]) + row;
      if (paired && p.store_rotated) {
        rotate_pairs<T, kCount>(from, to, at, half, cosine, sine);
      } else {
        V::load(from + at).store(to + at);
        if (paired) V::load(from + at + half).store(to + at + half);
      }
      continue;
    }
    i -= k_items + rest_items;
    const int h = i / vectors, at = i % vectors * kCount;
    const T* from = static_cast<const T*>(p.v) + token * p.v_token + h * p.v_head;
    V::load(from + at).store(reinterpret_cast<T*>(page + p.page_offsets[h * p.offset_row + 1]) + row + at);
  }
}

}  // namespace

kvasir_status launch_append(kvasir_stream* stream, const kvasir_append_args& args, void*, size_t, kvasir_error* err) {
  const int64_t total = args.k.shape[0], dim = args.k.shape[2], half = args.inv_freq.rank != 0 ? args.inv_freq.shape[0] : 0;
  if (total == 0) return KVASIR_OK;
  if (half > kMaxHalf)
    return fail(err, KVASIR_UNSUPPORTED, "invFreq has %lld entries; the CUDA backend rotates at most %d pairs a head.",
                static_cast<long long>(half), kMaxHalf);
  Params p{};
  p.k = args.k.data;
  p.v = args.v.data;
  p.pages = static_cast<char*>(args.pages.data);
  p.positions = static_cast<const int*>(args.positions.data);
  p.slot_mapping = static_cast<const int*>(args.slot_mapping.data);
  p.page_offsets = static_cast<const int*>(args.page_offsets.data);
  p.k_token = args.k.stride[0];
  p.k_head = args.k.stride[1];
  p.v_token = args.v.stride[0];
  p.v_head = args.v.stride[1];
  if (args.q.rank != 0 && half > 0) {
    p.q = args.q.data;
    p.q_token = args.q.stride[0];
    p.q_head = args.q.stride[1];
    p.num_qo_heads = static_cast<int>(args.q.shape[1]);
  }
  p.page_bytes = args.pages.stride[0] * dtype_bytes(args.pages.dtype);
  p.num_slots = args.pages.shape[0] * args.page_size;
  p.positions_stride = args.positions.stride[0];
  p.slot_stride = args.slot_mapping.stride[0];
  p.offset_row = args.page_offsets.stride[0];
  p.num_kv_heads = static_cast<int>(args.k.shape[1]);
  p.head_dim = static_cast<int>(dim);
  p.page_size = args.page_size;
  p.store_rotated = args.store_rotated != 0;
  p.rotation = {static_cast<const float*>(args.inv_freq.data), args.inv_freq.stride[0], args.rope_scale, static_cast<int>(half)};
  return with_dtype(args.k.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kCount = kVectorLength<T>;
    // Rows and pages are 16-byte aligned by contract; only a partial rotation may cut a vector.
    const bool wide = half % kCount == 0 && dim % kCount == 0;
    const int64_t elements = (p.num_qo_heads * half + p.num_kv_heads * (2 * dim - half)) / (wide ? kCount : 1);
    const int64_t pieces = (elements + 2 * kRotationThreads - 1) / (2 * kRotationThreads);
    const dim3 grid(static_cast<unsigned>(total), static_cast<unsigned>(pieces < 64 ? pieces : 64));
    if (wide)
      append_kernel<T, kCount><<<grid, kRotationThreads, 0, stream->handle()>>>(p);
    else
      append_kernel<T, 1><<<grid, kRotationThreads, 0, stream->handle()>>>(p);
    return launched(stream, "append", err);
  });
}

}  // namespace kvasir::cuda
