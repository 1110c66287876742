// How an attention call is cut into work, and the interface between the planner (attention.cc, compiled once) and the kernels
// (compiled per instruction set).
//
// A unit is one tile of query rows of one (request, kv head): the group's heads are packed into rows, row r = query * group +
// head in group. A task is a unit over a range of keys. A unit cut into several tasks leaves unnormalised partials, folded in key
// order when the last is there.
#pragma once
#include <cstddef>
#include <cstdint>

#include "attention_problem.h"
#include "isa.h"

namespace kvasir::cpu {

constexpr int kRowTile = 120;          // rows of a unit: a multiple of every kernel's register block
constexpr int kKeyTile = 64;           // keys of a tile; tiles start at multiples of it, whatever the request's start
constexpr int kDimPad = 32;            // partials are padded to a multiple of it
constexpr int64_t kFixedSplit = 4096;  // batch_invariant: sums are folded at multiples of so many keys

struct AttentionTask {
  int64_t request, kv_head;
  int64_t first_row;  // packed row of the unit's first
  int64_t rows;
  int64_t first_key, end_key;  // slots; first_key is a multiple of kKeyTile
  int64_t part = -1;           // where the partial goes; -1: the task is the whole unit and writes the output
  int64_t unit = -1;           // of the partial
};

// The parts [first_part, first_part + count) of one unit.
struct AttentionUnit {
  int64_t request, kv_head, first_row, rows;
  int64_t first_part, count;
  int64_t missing;  // parts that are not there yet: an atomic counter
};

// Floats of one partial: per row an accumulator of `dim_pad` and the running max and sum.
inline int64_t dim_padded(int64_t head_dim) { return (head_dim + kDimPad - 1) / kDimPad * kDimPad; }
inline int64_t part_floats(int64_t rows, int64_t head_dim) { return rows * (dim_padded(head_dim) + 2); }

struct AttentionRun {
  const AttentionProblem& problem;
  float* parts;         // [parts][part_stride]
  int64_t part_stride;  // floats
  int64_t fold_every;   // > 0: fold the running sums whenever a multiple of so many slots is passed
  bool amx;             // tile registers may be used
};

// One instruction set's kernels, for the element type of q, k, v and out.
struct AttentionKernel {
  size_t (*scratch_bytes)(const AttentionProblem&);
  void (*task)(const AttentionRun&, const AttentionTask&, void* scratch);
  void (*combine)(const AttentionRun&, const AttentionUnit&, void* scratch);
};

AttentionKernel attention_kernel_portable(int32_t dtype);
AttentionKernel attention_kernel_avx2(int32_t dtype);
AttentionKernel attention_kernel_avx512(int32_t dtype);

}  // namespace kvasir::cpu
