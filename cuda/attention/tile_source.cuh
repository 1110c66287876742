// Tile producers: where the K and V rows of a tile come from. A kernel is instantiated per producer; a codec is one more of them.
//
// A producer names the bytes of 16 keys ("group", a multiple of kPageGroup) at a time: all keys of a group lie in one run of
// memory. Paged: the entries of a tile (page slot, and with kExtra position and fill) come through a small ring in shared memory,
// filled by cp.async one tile ahead of the payload, so that no load waits for a table look-up.
#pragma once
#include "../common/mma.cuh"
#include "request.cuh"

namespace kvasir::cuda {

struct GroupEntry {
  int slot = 0;    // page slot (paged)
  int start = 0;   // position of the group's page's first key (kExtra)
  int filled = 0;  // keys that the page holds (kExtra)
  __device__ bool operator==(const GroupEntry& o) const { return (slot == o.slot) & (start == o.start) & (filled == o.filled); }
};

struct RaggedSource {
  static constexpr bool kPaged = false;
  const char *k, *v;
  int64_t k_token, v_token;

  __device__ void init(const AttentionParams& p, const Request& r, int kv_head) {
    k = p.k + r.kv_begin * p.k_token + kv_head * p.k_head;
    v = p.v + r.kv_begin * p.v_token + kv_head * p.v_head;
    k_token = p.k_token;
    v_token = p.v_token;
  }
  __device__ const char* k_row(const AttentionParams&, int, int key, int) const {
    return k + static_cast<int64_t>(key) * k_token;
  }
  __device__ const char* v_row(const AttentionParams&, int, int key, int) const {
    return v + static_cast<int64_t>(key) * v_token;
  }
};

struct PagedSource {
  static constexpr bool kPaged = true;
  int k, v;  // bytes from a page slot's start to this head
  const int *slots, *starts, *fills;

  __device__ void init(const AttentionParams& p, const Request& r, int kv_head) {
    init_at(p, r, p.page_offsets[2 * kv_head], p.page_offsets[2 * kv_head + 1]);
  }
  __device__ void init_at(const AttentionParams& p, const Request& r, int k_offset, int v_offset) {
    k = k_offset;
    v = v_offset;
    slots = p.page_indices + r.kv_begin;
    starts = p.page_start != nullptr ? p.page_start + r.kv_begin : nullptr;
    fills = p.page_len != nullptr ? p.page_len + r.kv_begin : nullptr;
  }
  // Byte offset of `key` in the payload of the page slot that holds it.
  __device__ static int64_t in_pool(const AttentionParams& p, int slot, int key, int row_bytes) {
    const int in_page = p.page_groups.mod(key / kPageGroup) * kPageGroup + key % kPageGroup;
    return slot * p.page_slot + static_cast<int64_t>(in_page) * row_bytes;
  }
  __device__ const char* k_row(const AttentionParams& p, int slot, int key, int row_bytes) const {
    return p.pages + k + in_pool(p, slot, key, row_bytes);
  }
  __device__ const char* v_row(const AttentionParams& p, int slot, int key, int row_bytes) const {
    return p.pages + v + in_pool(p, slot, key, row_bytes);
  }
};

}  // namespace kvasir::cuda
