#include "page_copy.h"

#include <algorithm>
#include <cstring>

#include "../core/page_runs.h"

namespace kvasir::cpu {

namespace {

constexpr size_t kPieceBytes = size_t{512} << 10;  // what one thread copies at a time

}  // namespace

void copy_pages(ThreadPool& pool, const CopyPagesCommand& command) {
  kvasir_page_copy copy = command.copy;
  copy.to_slots = static_cast<const int32_t*>(CommandList::tail(command));
  copy.from_slots = copy.to_slots + copy.count;
  if (copy.bytes >= kPieceBytes) {
    // Large pages are cut; a piece belongs to one page.
    const int64_t pieces = static_cast<int64_t>((copy.bytes + kPieceBytes - 1) / kPieceBytes);
    pool.parallel_for(pieces * copy.count, [&](int64_t index, int) {
      const int32_t page = static_cast<int32_t>(index / pieces);
      const size_t offset = static_cast<size_t>(index % pieces) * kPieceBytes;
      std::memcpy(page_to(copy, page) + offset, page_from(copy, page) + offset, std::min(kPieceBytes, copy.bytes - offset));
    });
    return;
  }
  // Small pages are grouped; neighbours on both sides are one copy.
  const int32_t group = static_cast<int32_t>(std::min<size_t>(kPieceBytes / copy.bytes, static_cast<size_t>(copy.count)));
  const int64_t groups = (copy.count + int64_t{group} - 1) / group;
  const auto copy_group = [&](int64_t index, int) {
    const int32_t first = static_cast<int32_t>(index * group), end = std::min(copy.count, first + group);
    for (int32_t i = first; i < end;) {
      const int32_t length = run_length(copy, i, end - i);
      std::memcpy(page_to(copy, i), page_from(copy, i), copy.bytes * static_cast<size_t>(length));
      i += length;
    }
  };
  if (groups == 1) return copy_group(0, 0);
  pool.parallel_for(groups, copy_group);
}

}  // namespace kvasir::cpu
