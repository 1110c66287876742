// Reserves the next token of every active row: pos = kv_len; positions = pos; slot_mapping = the slot of pos in the row's page
// table; kv_len = pos + 1; step += 1. Inactive rows: positions = 0, slot_mapping = -1. All vectors [rows] i32. A position past
// the end of page_indices gets slot -1, which append skips. A handful of integers a row: it runs on the calling thread.
#include "ops.h"

namespace kvasir::cpu {
namespace {

// Element i of a vector that may be strided.
int32_t& at(const kvasir_tensor& vector, int64_t i) { return static_cast<int32_t*>(vector.data)[i * vector.stride[0]]; }

}  // namespace

void advance(Context&, const kvasir_advance_args& args) {
  for (int64_t row = 0; row < args.kv_len.shape[0]; ++row) {
    if (args.active.rank != 0 && at(args.active, row) == 0) {
      at(args.positions, row) = 0;
      at(args.slot_mapping, row) = -1;
      continue;
    }
    const int32_t position = at(args.kv_len, row);
    const int64_t entry = at(args.row_start, row) + position / args.page_size;
    at(args.positions, row) = position;
    const bool mapped = entry >= 0 && entry < args.page_indices.shape[0];
    at(args.slot_mapping, row) = mapped ? at(args.page_indices, entry) * args.page_size + position % args.page_size : -1;
    at(args.kv_len, row) = position + 1;
    if (args.step.rank != 0) at(args.step, row) += 1;
  }
}

}  // namespace kvasir::cpu
