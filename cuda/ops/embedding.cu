// out[i] = table[ids[i]]: ids [rows] i32, table [vocab, hidden] T, out [rows, hidden] T; a copy of bits. An id outside the table
// gives a row of NaN: ids may come from a sampler on the device, and a wrong row must not look like a right one.
#include "../common/check.h"
#include "../common/convert.cuh"
#include "../ops.h"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 128;

// Unit: 16 bytes, or 2 where rows are not aligned to 16 (every dtype of a table has 2 or 4 bytes).
template <class Unit>
__global__ void embedding_kernel(const int* ids, int64_t ids_stride, const char* table, int64_t vocab, int64_t table_row,
                                 char* out, int64_t out_row, int units) {
  const int id = ids[blockIdx.x * ids_stride];
  const bool known = id >= 0 && id < vocab;
  const Unit* source = reinterpret_cast<const Unit*>(table + (known ? id : 0) * table_row);
  Unit* target = reinterpret_cast<Unit*>(out + blockIdx.x * out_row);
  Unit missing;
  memset(&missing, 0xff, sizeof missing);  // all bits set is NaN in every floating dtype
  for (int i = blockIdx.y * kThreads + threadIdx.x; i < units; i += gridDim.y * kThreads) target[i] = known ? source[i] : missing;
}

}  // namespace

kvasir_status launch_embedding(kvasir_stream* stream, const kvasir_embedding_args& args, void*, size_t, kvasir_error* err) {
  const int64_t rows = args.ids.shape[0], item = dtype_bytes(args.table.dtype), row_bytes = args.table.shape[1] * item;
  if (rows == 0 || row_bytes == 0) return KVASIR_OK;
  const auto launch = [&](auto unit) {
    using Unit = decltype(unit);
    const int units = static_cast<int>(row_bytes / static_cast<int64_t>(sizeof(Unit)));
    const unsigned pieces = static_cast<unsigned>(min(16, (units + kThreads - 1) / kThreads));
    embedding_kernel<Unit><<<dim3(static_cast<unsigned>(rows), pieces), kThreads, 0, stream->handle()>>>(
        static_cast<const int*>(args.ids.data), args.ids.stride[0], static_cast<const char*>(args.table.data),
        args.table.shape[0], args.table.stride[0] * item, static_cast<char*>(args.out.data), args.out.stride[0] * item, units);
  };
  if (row_bytes % 16 == 0 && rows_aligned(args.table, 16) && rows_aligned(args.out, 16))
    launch(uint4{});
  else
    launch(uint16_t{});
  return launched(stream, "embedding", err);
}

}  // namespace kvasir::cuda
