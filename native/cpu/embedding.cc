// out[i] = table[ids[i]]: ids [rows] i32, table [vocab, hidden] T, out [rows, hidden] T; a copy of bits, so any dtype. An id
// outside the table gives a row of NaN: the ids live on the device and may come from a sampler, and a wrong row must not look
// like a right one.
#include <cstring>

#include "../core/dtype.h"
#include "ops.h"

namespace kvasir::cpu {

void embedding(Context& context, const kvasir_embedding_args& args) {
  const int64_t rows = args.ids.shape[0], vocab = args.table.shape[0];
  const int64_t item = dtype_bytes(args.table.dtype);
  const size_t row_bytes = static_cast<size_t>(args.table.shape[1] * item);
  const auto* ids = static_cast<const int32_t*>(args.ids.data);
  const auto* table = static_cast<const char*>(args.table.data);
  auto* out = static_cast<char*>(args.out.data);
  if (row_bytes == 0) return;

  constexpr int64_t kRowsPerTask = 16;
  context.pool.parallel_for((rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
    for (int64_t i = task * kRowsPerTask; i < rows && i < (task + 1) * kRowsPerTask; ++i) {
      char* target = out + i * args.out.stride[0] * item;
      const int64_t id = ids[i * args.ids.stride[0]];
      if (id >= 0 && id < vocab) {
        memcpy(target, table + id * args.table.stride[0] * item, row_bytes);
      } else {
        memset(target, 0xff, row_bytes);  // all bits set is NaN in every floating dtype
      }
    }
  });
}

}  // namespace kvasir::cpu
