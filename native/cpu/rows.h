// Rows of a [rows, width] tensor as f32, whatever the dtype.
#pragma once
#include "../core/dtype.h"
#include "row_ops.h"

namespace kvasir::cpu {

inline void* row_data(const kvasir_tensor& x, int64_t row) {
  return static_cast<char*>(x.data) + row * x.stride[0] * dtype_bytes(x.dtype);
}

// The row itself when it is f32, else its conversion in `buffer` (as wide as the row).
inline const float* float_row(const RowOps& ops, const kvasir_tensor& x, int64_t row, float* buffer) {
  if (x.dtype == KVASIR_F32) return static_cast<const float*>(row_data(x, row));
  ops.load(x.dtype, row_data(x, row), x.shape[1], buffer);
  return buffer;
}

}  // namespace kvasir::cpu
