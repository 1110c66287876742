// The blocked matrix product behind linear: one task computes a block of rows by a block of columns of out.
#pragma once
#include "isa.h"
#include "ops.h"

namespace kvasir::cpu {

struct LinearBlocks {
  int64_t rows, columns;  // of a task
  bool few_rows;          // one register tile holds all rows
  size_t scratch_bytes;   // of a thread
};

struct LinearKernel {
  LinearBlocks (*blocks)(const kvasir_linear_args&);
  // The block at (row, column) of out, which reaches to the block's size or the matrix's edge.
  void (*run)(const kvasir_linear_args&, const LinearBlocks&, int64_t row, int64_t column, void* scratch);
};

// One per instruction set that is built.
extern const LinearKernel kLinearPortable, kLinearAvx2, kLinearAvx512, kLinearAvx512Bf16;

}  // namespace kvasir::cpu
