// out = x converted between any floating dtypes by way of f32, round to nearest even, or i32 copied: equal shapes of rank 1..4,
// any strides. float8 e4m3 saturates at 448, the other formats overflow to infinity.
#include <algorithm>
#include <cstring>

#include "ops.h"
#include "rows.h"

namespace kvasir::cpu {
namespace {

struct Span {
  char* data;
  int64_t stride, item;  // elements, bytes
};

// Where line `line` of the tensor starts, a line being a run along the last dimension.
Span line_of(const kvasir_tensor& x, int64_t line) {
  int64_t offset = 0;
  for (int d = x.rank - 2; d >= 0; --d) {
    offset += line % x.shape[d] * x.stride[d];
    line /= x.shape[d];
  }
  const int64_t item = dtype_bytes(x.dtype);
  return {static_cast<char*>(x.data) + offset * item, x.stride[x.rank - 1], item};
}

constexpr int64_t kChunk = 2048;

// n elements between a strided run and a packed buffer.
void gather(const Span& from, int64_t begin, int64_t n, char* packed) {
  for (int64_t i = 0; i < n; ++i) memcpy(packed + i * from.item, from.data + (begin + i) * from.stride * from.item, from.item);
}
void scatter(const char* packed, int64_t begin, int64_t n, const Span& to) {
  for (int64_t i = 0; i < n; ++i) memcpy(to.data + (begin + i) * to.stride * to.item, packed + i * to.item, to.item);
}

}  // namespace

void cast(Context& context, const kvasir_cast_args& args) {
  const kvasir_tensor &x = args.x, &out = args.out;
  const int64_t length = x.shape[x.rank - 1], chunks = (length + kChunk - 1) / kChunk;
  int64_t lines = 1;
  for (int d = 0; d + 1 < x.rank; ++d) lines *= x.shape[d];
  const RowOps& ops = row_ops(context.isa);

  const int64_t tasks = lines * chunks, per_task = std::max<int64_t>(1, kChunk / std::max<int64_t>(length, 1));
  context.pool.parallel_for((tasks + per_task - 1) / per_task, [&](int64_t group, int) {
    alignas(64) float values[kChunk];
    alignas(64) char packed[kChunk * sizeof(float)];
    for (int64_t task = group * per_task; task < tasks && task < (group + 1) * per_task; ++task) {
      const Span from = line_of(x, task / chunks), to = line_of(out, task / chunks);
      const int64_t begin = task % chunks * kChunk, n = std::min(kChunk, length - begin);
      const char* source = from.data + begin * from.item;
      if (from.stride != 1) {
        gather(from, begin, n, packed);
        source = packed;
      }
      if (x.dtype == out.dtype) {  // a copy: i32 has no way through f32, and NaN keeps its bits
        memcpy(values, source, static_cast<size_t>(n * from.item));
      } else {
        alignas(64) float wide[kChunk];
        ops.load(x.dtype, source, n, wide);
        ops.store(out.dtype, wide, n, values);
      }
      if (to.stride == 1)
        memcpy(to.data + begin * to.item, values, static_cast<size_t>(n * to.item));
      else
        scatter(reinterpret_cast<const char*>(values), begin, n, to);
    }
  });
}

}  // namespace kvasir::cpu
