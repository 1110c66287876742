// How many requests an attention call serves: the rows of its KV side, said by whichever argument shows them first.
#pragma once
#include <cstdint>

#include "../abi/kvasir_abi.h"
#include "platform.h"

namespace kvasir {

// Paged: rows of the table (per_head_rows: one row a KV head). Ragged: kv_indptr, else qo_indptr, else q_start, else one request.
KVASIR_HD int64_t attention_batch(const kvasir_attention_args& a) {
  if (a.pages.rank > 0) return a.per_head_rows ? a.kv_len.shape[0] / a.page_offsets.shape[0] : a.kv_len.shape[0];
  if (a.kv_indptr.rank > 0) return a.kv_indptr.shape[0] - 1;
  if (a.qo_indptr.rank > 0) return a.qo_indptr.shape[0] - 1;
  return a.q_start.rank > 0 ? a.q_start.shape[0] : 1;
}

}  // namespace kvasir
