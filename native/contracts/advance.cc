// advance: one more token per row, reserved on the device.
#include <cstddef>
#include <iterator>
#include <utility>

#include "ops.h"

namespace kvasir {
namespace {

using Args = kvasir_advance_args;

constexpr Field kFields[] = {
    field::in_out("kvLen", offsetof(Args, kv_len)),
    field::input("rowStart", offsetof(Args, row_start)),
    field::input("pageIndices", offsetof(Args, page_indices)),
    field::output("positions", offsetof(Args, positions)),
    field::output("slotMapping", offsetof(Args, slot_mapping)),
    field::optional_in_out("step", offsetof(Args, step)),
    field::optional_input("active", offsetof(Args, active)),
    field::integer("pageSize", offsetof(Args, page_size)),
};

kvasir_status check(const void* raw, kvasir_error* err) {
  const Args& a = *static_cast<const Args*>(raw);
  Match m(err);
  Dim rows{"rows"}, entries{"entries"};
  m.dense("kvLen", a.kv_len, kOnlyI32, {&rows}).dense("rowStart", a.row_start, kOnlyI32, {&rows});
  m.dense("pageIndices", a.page_indices, kOnlyI32, {&entries});
  m.dense("positions", a.positions, kOnlyI32, {&rows}).dense("slotMapping", a.slot_mapping, kOnlyI32, {&rows});
  m.dense("step", a.step, kOnlyI32, {&rows}).dense("active", a.active, kOnlyI32, {&rows});
  check_page_size(m, a.page_size);
  const std::pair<const char*, const kvasir_tensor*> tensors[] = {
      {"kvLen", &a.kv_len}, {"positions", &a.positions}, {"slotMapping", &a.slot_mapping},
      {"step", &a.step},    {"rowStart", &a.row_start},  {"pageIndices", &a.page_indices},
      {"active", &a.active}};
  constexpr int kWritten = 4;  // the first four are written
  for (int i = 0; i < kWritten; ++i) {
    for (size_t j = static_cast<size_t>(i) + 1; j < std::size(tensors); ++j) {
      m.disjoint(tensors[i].first, *tensors[i].second, tensors[j].first, *tensors[j].second);
    }
  }
  return m.status();
}

}  // namespace

constinit const Contract advance_contract{"advance", sizeof(Args), kFields, no_defaults, check};

}  // namespace kvasir
