// The arguments of an attention call read once: which queries and keys a request has, where they lie, and which keys a query
// sees. Both the float64 oracle and the tuned kernels take the meaning of the contract from here.
#pragma once
#include <cmath>
#include <cstdint>

#include "../abi/kvasir_abi.h"
#include "../core/attention_batch.h"
#include "../core/dtype.h"

namespace kvasir::cpu {

inline bool present(const kvasir_tensor& t) { return t.rank > 0; }
inline int32_t int_at(const kvasir_tensor& t, int64_t i) { return static_cast<const int32_t*>(t.data)[i * t.stride[0]]; }
inline float float_at(const kvasir_tensor& t, int64_t i) { return static_cast<const float*>(t.data)[i * t.stride[0]]; }

// Keys at positions in [first, last] are visible to a query. last is at most kNoKey - 1, so that a slot marked kNoKey is never
// seen.
constexpr int32_t kNoKey = INT32_MAX;
struct Visible {
  int32_t first, last;
};

// The keys of one request as one kv head sees them.
struct KeyRow {
  int64_t first;   // ragged: row of k and v; paged: index into page_indices
  int64_t length;  // slots; slot j sits at position j unless page_start says otherwise
};

// One stretch of slots whose keys lie evenly spaced in memory.
struct KeyRun {
  const char *k, *v;
  int64_t k_stride, v_stride;  // bytes from key to key
  int64_t slots;               // length of the stretch
  int64_t valid;               // its first so many slots hold keys
  int64_t position;            // of its first slot
  int64_t weight;              // index of its first slot in log_weight (paged) or row of it (ragged)
};

struct AttentionProblem {
  const kvasir_attention_args& args;
  bool paged;
  int64_t total_q, batch;
  int64_t num_qo_heads, num_kv_heads, group, head_dim;
  int64_t kv_bytes, page_size;
  float sm_scale;

  explicit AttentionProblem(const kvasir_attention_args& a)
      : args(a),
        paged(present(a.pages)),
        total_q(a.q.shape[0]),
        batch(attention_batch(a)),
        num_qo_heads(a.q.shape[1]),
        num_kv_heads(paged ? a.page_offsets.shape[0] : a.k.shape[1]),
        group(num_kv_heads > 0 ? num_qo_heads / num_kv_heads : 0),
        head_dim(a.q.shape[2]),
        kv_bytes(dtype_bytes(paged ? a.pages.dtype : a.k.dtype)),
        page_size(a.page_size),
        sm_scale(a.sm_scale != 0.0f ? a.sm_scale : 1.0f / std::sqrt(static_cast<float>(head_dim))) {}

  // First query of request b; first_query(batch) ends the last one.
  int64_t first_query(int64_t b) const {
    if (present(args.qo_indptr)) return int_at(args.qo_indptr, b);
    return batch > 0 ? total_q / batch * b : 0;
  }

  KeyRow keys(int64_t b, int64_t kv_head) const {
    if (paged) {
      const int64_t row = args.per_head_rows ? b * num_kv_heads + kv_head : b;
      return {int_at(args.row_start, row), int_at(args.kv_len, row)};
    }
    const int64_t total = args.k.shape[0];
    const int64_t begin = present(args.kv_indptr) ? int_at(args.kv_indptr, b) : total / batch * b;
    const int64_t end = present(args.kv_indptr) ? int_at(args.kv_indptr, b + 1) : total / batch * (b + 1);
    return {begin, end - begin};
  }

  // What query i (from the request's first) may see; all of it is below kNoKey.
  Visible visible(int64_t b, int64_t i, const KeyRow& row) const {
    const int64_t start = present(args.q_start) ? int_at(args.q_start, b) : row.length - (first_query(b + 1) - first_query(b));
    const int64_t position = start + i;
    Visible range = {INT32_MIN, kNoKey - 1};
    if (args.causal && position < range.last) range.last = static_cast<int32_t>(position);
    if (args.window_left >= 0 && position - args.window_left > range.first) {
      range.first = static_cast<int32_t>(position - args.window_left < kNoKey ? position - args.window_left : kNoKey);
    }
    return range;
  }

  // The stretch that starts at `slot` of a row; never reads the table past the row's entries.
  KeyRun run_at(const KeyRow& row, int64_t kv_head, int64_t slot) const {
    KeyRun run = {};
    if (!paged) {
      const int64_t key = row.first + slot;
      run.k_stride = args.k.stride[0] * kv_bytes;
      run.v_stride = args.v.stride[0] * kv_bytes;
      run.k = static_cast<const char*>(args.k.data) + key * run.k_stride + kv_head * args.k.stride[1] * kv_bytes;
      run.v = static_cast<const char*>(args.v.data) + key * run.v_stride + kv_head * args.v.stride[1] * kv_bytes;
      run.slots = run.valid = row.length - slot;
      run.position = slot;
      run.weight = key;
      return run;
    }
    const int64_t entry = row.first + slot / page_size, offset = slot % page_size;
    const int64_t left = row.length - slot, in_page = page_size - offset;
    run.slots = left < in_page ? left : in_page;
    int64_t valid = run.slots;
    if (present(args.page_len)) {
      const int64_t held = int_at(args.page_len, entry) - offset;
      if (held < valid) valid = held > 0 ? held : 0;
    }
    run.valid = valid;
    run.position = present(args.page_start) ? int_at(args.page_start, entry) + offset : slot;
    run.weight = entry * page_size + offset;
    run.k_stride = run.v_stride = head_dim * kv_bytes;
    if (valid > 0) {
      const char* page =
          static_cast<const char*>(args.pages.data) + int_at(args.page_indices, entry) * args.pages.stride[0] * kv_bytes;
      const int32_t* offsets = static_cast<const int32_t*>(args.page_offsets.data) + kv_head * args.page_offsets.stride[0];
      run.k = page + offsets[0] + offset * run.k_stride;
      run.v = page + offsets[1] + offset * run.v_stride;
    }
    return run;
  }

  float log_weight(const KeyRun& run, int64_t kv_head, int64_t j) const {
    const kvasir_tensor& w = args.log_weight;
    const int64_t head = w.rank == 2 ? kv_head * w.stride[1] : 0;
    return static_cast<const float*>(w.data)[(run.weight + j) * w.stride[0] + head];
  }
};

}  // namespace kvasir::cpu
