// A row of logits [vocab] T, walked by one CTA of kLogitThreads with vector loads where the row allows them.
#pragma once
#include "../common/convert.cuh"
#include "block_reduce.cuh"

namespace kvasir::cuda {

inline constexpr int kLogitThreads = 1024;

template <class T>
struct LogitRow {
  const T* data;
  int vocab;
  bool wide;

  // visit(logit, index) for every logit, each by one thread.
  template <class Visit>
  __device__ __forceinline__ void each(const Visit& visit) const {
    constexpr int kCount = kVectorLength<T>;
    const int vectors = wide ? vocab / kCount : 0;
    for (int i = threadIdx.x; i < vectors; i += kLogitThreads) {
      const auto v = Vector<T, kCount>::load(data + i * kCount);
#pragma unroll
      for (int j = 0; j < kCount; ++j) visit(as_float(v.elements[j]), i * kCount + j);
    }
    for (int i = vectors * kCount + threadIdx.x; i < vocab; i += kLogitThreads) visit(as_float(data[i]), i);
  }

  // The order key of the best token; every thread gets it.
  __device__ uint64_t best() const {
    uint64_t least = order_key(-INFINITY, 0);
    each([&](float logit, int index) { least = Least{}(least, order_key(logit, static_cast<uint32_t>(index))); });
    return block_reduce(least, order_key(-INFINITY, 0), Least{});
  }
};

template <class T>
struct LogitRows {
  const T* data;
  int64_t stride;
  int vocab;
  bool wide;

  explicit LogitRows(const kvasir_tensor& t)
      : data(static_cast<const T*>(t.data)),
        stride(t.stride[0]),
        vocab(static_cast<int>(t.shape[1])),
        wide(rows_aligned(t, 16)) {}
  __device__ LogitRow<T> row(int64_t r) const { return {data + r * stride, vocab, wide}; }
};

}  // namespace kvasir::cuda
