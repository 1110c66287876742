// Pages on their way between memory and a slab file, as one call of the tier asked for them.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "slab_index.h"

namespace kvasir::addon {

enum class BatchKind { load, store, remove };

// lib/cache/tier_driver.ts has the same numbers.
enum class PageStatus : uint8_t { loaded = 0, missing = 1, damaged = 2, failed = 3 };
enum class StoreStatus : uint8_t { stored = 0, present = 1, refused = 2, failed = 3 };

struct PageBatch {
  BatchKind kind = BatchKind::load;
  uint32_t group = 0;
  uint64_t page_bytes = 0;
  std::vector<PageKey> keys;
  std::vector<std::array<uint8_t, 16>> parents;
  std::vector<int32_t> tokens;  // page_size a page
  std::vector<char*> memory;    // the pages' payloads
  uint8_t* statuses = nullptr;  // one a page; the caller's
  std::function<void()> done;   // on the driver's thread, once all statuses are set and no page's memory is touched any more
  std::atomic<bool> aborted{false};

  size_t count() const { return keys.size(); }

  // The driver's own.
  size_t next = 0, open = 0;    // pages that were begun, and that are under way
  uint64_t sequence = 0;        // of its first page
  std::vector<uint32_t> slots;  // held to its end; kNone where the page has none
};

struct SlabCounters {
  uint64_t loads = 0, loaded_bytes = 0, stores = 0, stored_bytes = 0;
  uint64_t misses = 0, damaged = 0, failures = 0, refused = 0, evictions = 0;
};

}  // namespace kvasir::addon
