// Which request, rows and keys a CTA works on, found on the device from the length tables.
#pragma once
#include "params.h"

namespace kvasir::cuda {

// A row's running maximum moves only when a tile exceeds it by more than 2^8: probabilities stay far below overflow, and O is
// seldom rescaled.
inline constexpr float kMaxSlack = 8.f;

struct Request {
  int index;             // in the batch
  int qo_begin, qo_len;  // tokens of q
  int kv_begin, kv_len;  // ragged: first key; paged: first entry of page_indices
  int q_start;           // position of the first query
};

// How an element of a length or page table is read; those who read several number them.
struct TableRead {
  __device__ int operator()(const int* at, int = 0) const { return *at; }
};
// Before the kernel that may write it has ended, past the L1 cache, which would keep it.
struct EarlyTableRead {
  bool early;
  __device__ int operator()(const int* at, int = 0) const { return early ? __ldcg(at) : *at; }
};

// What the tables say of a request, as it lies there.
struct RequestWords {
  int q0 = 0, q1 = 0, kv0 = 0, kv1 = 0, q_start = 0;

  __device__ bool operator==(const RequestWords& o) const {
    return (q0 == o.q0) & (q1 == o.q1) & (kv0 == o.kv0) & (kv1 == o.kv1) & (q_start == o.q_start);
  }
};
inline constexpr int kRequestWords = 5;

// `read` numbers the words 0..4.
template <class Read>
__device__ __forceinline__ RequestWords load_words(const AttentionParams& p, int index, int kv_head, Read read) {
  RequestWords w;
  if (p.qo_indptr != nullptr) w.q0 = read(p.qo_indptr + index, 0), w.q1 = read(p.qo_indptr + index + 1, 1);
  if (p.pages != nullptr) {
    const int row = p.per_head_rows ? index * p.num_kv_heads + kv_head : index;
    w.kv0 = read(p.row_start + row, 2);
    w.kv1 = read(p.kv_len + row, 3);
  } else if (p.kv_indptr != nullptr) {
    w.kv0 = read(p.kv_indptr + index, 2);
    w.kv1 = read(p.kv_indptr + index + 1, 3);
  }
  if (p.q_start != nullptr) w.q_start = read(p.q_start + index, 4);
  return w;
}

__device__ __forceinline__ Request request_of(const AttentionParams& p, int index, const RequestWords& w) {
  Request r;
  r.index = index;
  r.qo_len = p.qo_indptr != nullptr ? w.q1 - w.q0 : p.qo_each;
  r.qo_begin = p.qo_indptr != nullptr ? w.q0 : index * p.qo_each;
  const bool words = p.pages != nullptr || p.kv_indptr != nullptr;
  r.kv_begin = words ? w.kv0 : index * p.kv_each;
  r.kv_len = p.pages != nullptr ? w.kv1 : words ? w.kv1 - w.kv0 : p.kv_each;
  r.q_start = p.q_start != nullptr ? w.q_start : r.kv_len - r.qo_len;
  return r;
}

__device__ __forceinline__ Request load_request(const AttentionParams& p, int index, int kv_head) {
  return request_of(p, index, load_words(p, index, kv_head, TableRead{}));
}

// Keys [begin, end) that some row with a position in [first, last] may see. With explicit entry positions order says nothing.
__device__ __forceinline__ void visible_keys(const AttentionParams& p, int kv_len, int first, int last, int& begin, int& end) {
  begin = 0;
  end = kv_len;
  if (p.page_start == nullptr) {
    if (p.causal) end = min(end, last + 1);
    if (p.window_left >= 0) begin = max(0, first - p.window_left);
  }
  end = max(end, 0);
}

// The part of the tiles [begin, end) that belongs to split `split`: equal shares of what is visible.
__device__ __forceinline__ void split_tiles(const AttentionParams& p, int split, int& begin, int& end) {
  if (p.num_splits == 1) return;
  const int chunk = (end - begin + p.num_splits - 1) / p.num_splits;
  const int64_t from = begin + static_cast<int64_t>(split) * chunk;
  end = static_cast<int>(min(static_cast<int64_t>(end), from + chunk));
  begin = static_cast<int>(max(static_cast<int64_t>(begin), from));
}

// The request of token `token`, by bisection; -1 when no request has it.
__device__ __forceinline__ int request_of_token(const AttentionParams& p, int token) {
  if (p.qo_indptr == nullptr) {
    const int len = p.total_q / p.batch;
    return token < len * p.batch ? token / len : -1;
  }
  if (token < p.qo_indptr[0] || token >= p.qo_indptr[p.batch]) return -1;
  int low = 0, high = p.batch;  // qo_indptr[low] <= token < qo_indptr[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (p.qo_indptr[middle] <= token ? low : high) = middle;
  }
  return low;
}

// Finds the `tile`-th row tile (of tile_rows packed rows each) over all requests; false past the last. Every thread of the CTA
// calls it; `scratch` holds kThreads / 32 + 2 ints of shared memory. Barriers: all threads arrive and wait, three times.
template <int kThreads>
__device__ bool find_row_tile(const AttentionParams& p, int tile, int tile_rows, int* scratch, int& request,
                              int& tile_in_request) {
  const int group = static_cast<int>(p.group.divisor);
  if (p.qo_indptr == nullptr || p.batch == 1) {
    const int rows = (p.qo_indptr == nullptr ? p.total_q / p.batch : p.qo_indptr[1] - p.qo_indptr[0]) * group;
    const int tiles = (rows + tile_rows - 1) / tile_rows;
    if (tiles == 0 || tile >= tiles * p.batch) return false;
    request = tile / tiles;
    tile_in_request = tiles - 1 - tile % tiles;
    return true;
  }
  const int t = threadIdx.x, lane = t & 31, warp = t >> 5;
  int* found = scratch + kThreads / 32;
  const int strip = (p.batch + kThreads - 1) / kThreads, from = t * strip, to = min(from + strip, p.batch);
  const auto tiles_of = [&](int b) { return ((p.qo_indptr[b + 1] - p.qo_indptr[b]) * group + tile_rows - 1) / tile_rows; };
  int count = 0;
  for (int b = from; b < to; ++b) count += tiles_of(b);
  int scan = count;
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, scan, offset);
    if (lane >= offset) scan += other;
  }
  if (lane == 31) scratch[warp] = scan;
  if (t == 0) found[0] = -1;
  __syncthreads();
  int before = scan - count;
  for (int w = 0; w < warp; ++w) before += scratch[w];
  if (tile >= before && tile < before + count) {
    int b = from;
    for (int tiles = tiles_of(b); tile >= before + tiles; tiles = tiles_of(b)) {
      before += tiles;
      ++b;
    }
    found[0] = b;
    found[1] = tiles_of(b) - 1 - (tile - before);  // the last rows see the most keys: start with them
  }
  __syncthreads();
  request = found[0];
  tile_in_request = found[1];
  __syncthreads();
  return request >= 0;
}

}  // namespace kvasir::cuda
