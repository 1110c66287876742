// Reserves the next token of every active row: pos = kv_len; positions = pos; slot_mapping = the slot of pos in the row's page
// table; kv_len = pos + 1; step += 1. Inactive rows: positions = 0, slot_mapping = -1. All vectors [rows] i32. A position past
// the end of page_indices gets slot -1, which append skips.
#include "../common/check.h"
#include "../ops.h"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 128;

struct Column {
  int* data;
  int64_t stride;
  explicit Column(const kvasir_tensor& t) : data(t.rank == 0 ? nullptr : static_cast<int*>(t.data)), stride(t.stride[0]) {}
  __device__ int& operator[](int64_t i) const { return data[i * stride]; }
};

struct Params {
  Column kv_len, row_start, page_indices, positions, slot_mapping, step, active;
  int64_t rows, entries;
  int page_size;
};

__global__ void advance_kernel(const Params p) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= p.rows) return;
  if (p.active.data != nullptr && p.active[row] == 0) {
    p.positions[row] = 0;
    p.slot_mapping[row] = -1;
    return;
  }
  const int position = p.kv_len[row];
  const int64_t entry = static_cast<int64_t>(p.row_start[row]) + position / p.page_size;
  const bool mapped = entry >= 0 && entry < p.entries;
  p.positions[row] = position;
  p.slot_mapping[row] = mapped ? p.page_indices[entry] * p.page_size + position % p.page_size : -1;
  p.kv_len[row] = position + 1;
  if (p.step.data != nullptr) p.step[row] += 1;
}

}  // namespace

kvasir_status launch_advance(kvasir_stream* stream, const kvasir_advance_args& args, void*, size_t, kvasir_error* err) {
  const int64_t rows = args.kv_len.shape[0];
  if (rows == 0) return KVASIR_OK;
  const Params p = {Column(args.kv_len),        Column(args.row_start), Column(args.page_indices), Column(args.positions),
                    Column(args.slot_mapping),  Column(args.step),      Column(args.active),       rows,
                    args.page_indices.shape[0], args.page_size};
  advance_kernel<<<static_cast<unsigned>((rows + kThreads - 1) / kThreads), kThreads, 0, stream->handle()>>>(p);
  return launched(stream, "advance", err);
}

}  // namespace kvasir::cuda
