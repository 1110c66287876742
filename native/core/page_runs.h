// Pages that follow each other in both memories are one copy: runs of a list of page copies.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../abi/kvasir_abi.h"

namespace kvasir {

inline char* page_to(const kvasir_page_copy& copy, int32_t i) {
  return static_cast<char*>(copy.to) + static_cast<size_t>(copy.to_slots[i]) * copy.to_stride + copy.to_offset;
}
inline const char* page_from(const kvasir_page_copy& copy, int32_t i) {
  return static_cast<const char*>(copy.from) + static_cast<size_t>(copy.from_slots[i]) * copy.from_stride + copy.from_offset;
}

// Pages from `first` on that are one copy, at least 1, at most `most`.
inline int32_t run_length(const kvasir_page_copy& copy, int32_t first, int32_t most) {
  if (copy.bytes != copy.to_stride || copy.bytes != copy.from_stride) return 1;
  int32_t length = 1;
  const int32_t limit = copy.count - first < most ? copy.count - first : most;
  while (length < limit && copy.to_slots[first + length] == copy.to_slots[first + length - 1] + 1 &&
         copy.from_slots[first + length] == copy.from_slots[first + length - 1] + 1) {
    ++length;
  }
  return length;
}

// Calls visit(to, from, bytes) for every run, in the order of the list, until it returns false.
template <class Visit>
bool each_run(const kvasir_page_copy& copy, const Visit& visit) {
  for (int32_t i = 0; i < copy.count;) {
    const int32_t length = run_length(copy, i, copy.count);
    if (!visit(page_to(copy, i), page_from(copy, i), copy.bytes * static_cast<size_t>(length))) return false;
    i += length;
  }
  return true;
}

}  // namespace kvasir
