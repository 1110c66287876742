// The JavaScript classes of transfers: NativeTransferStream and NativeTransfer of lib/native.ts.
#include <algorithm>
#include <vector>

#include "../core/dtype.h"
#include "wraps.h"

namespace kvasir::addon {

namespace {

constexpr int64_t kMostBytes = int64_t{1} << 53;
constexpr char kPageOutOfRange[] = "ERR_KVASIR_PAGE_OUT_OF_RANGE";

// One side of a copy: a tensor of pages [slots, elements].
struct Side {
  const TensorWrap& tensor;
  const char* name;
  size_t stride, page_bytes;
  int64_t slots;
};

Side side_of(Call& call, size_t index, const char* name) {
  const TensorWrap& tensor = call.object<TensorWrap>(index, name);
  tensor.check_usable(name);
  const kvasir_tensor& view = tensor.view;
  if (view.rank != 2 || (view.shape[1] > 1 && view.stride[1] != 1))
    throw Failure("ERR_KVASIR_SHAPE", std::string(name) + " has " + std::to_string(view.rank) +
                                          " dimensions, expected [slots, elements_per_page] with dense pages.");
  const size_t width = static_cast<size_t>(dtype_bytes(view.dtype));
  return {tensor, name, static_cast<size_t>(view.stride[0]) * width, static_cast<size_t>(view.shape[1]) * width, view.shape[0]};
}

struct Slots {
  const int32_t* data = nullptr;
  size_t count = 0;
};

Slots slots_of(Call& call, size_t index, const char* name) {
  bool is_typed = false;
  napi_typedarray_type type = napi_uint8_array;
  Slots slots;
  void* data = nullptr;
  if (napi_is_typedarray(call.env, call.arguments[index], &is_typed) == napi_ok && is_typed)
    ok(call.env, napi_get_typedarray_info(call.env, call.arguments[index], &type, &slots.count, &data, nullptr, nullptr));
  if (type != napi_int32_array) call.wrong(index, name, "Int32Array");
  slots.data = static_cast<const int32_t*>(data);
  return slots;
}

void check_range(const Slots& slots, const Side& side, const char* name) {
  for (size_t i = 0; i < slots.count; ++i) {
    if (slots.data[i] >= 0 && slots.data[i] < side.slots) continue;
    throw Failure(kPageOutOfRange, std::string(name) + "[" + std::to_string(i) + "] is " + std::to_string(slots.data[i]) +
                                       ", expected a slot from 0 to " + std::to_string(side.slots - 1) + " of " + side.name +
                                       ".");
  }
}

// Throws where a slot is written twice, or, in one memory, both read and written.
void check_distinct(const Slots& to, const Slots& from, bool one_memory, int64_t slots) {
  std::vector<bool> written(static_cast<size_t>(slots));
  for (size_t i = 0; i < to.count; ++i) {
    if (written[static_cast<size_t>(to.data[i])])
      throw Failure(kInvalidArgument, "toSlots[" + std::to_string(i) + "] is " + std::to_string(to.data[i]) +
                                          ", which comes earlier in the list too; expected each destination once.");
    written[static_cast<size_t>(to.data[i])] = true;
  }
  for (size_t i = 0; one_memory && i < from.count; ++i) {
    if (!written[static_cast<size_t>(from.data[i])]) continue;
    throw Failure(kInvalidArgument, "fromSlots[" + std::to_string(i) + "] is " + std::to_string(from.data[i]) +
                                        ", which is a destination too; expected pages that are not both read and written.");
  }
}

// Whether the two tensors share memory, slot by slot; throws where they overlap otherwise.
bool share_memory(const Side& to, const Side& from) {
  if (to.tensor.storage != from.tensor.storage) return false;
  const auto* a = static_cast<const char*>(to.tensor.view.data);
  const auto* b = static_cast<const char*>(from.tensor.view.data);
  if (a == b && to.stride == from.stride) return true;
  const auto span = [](const Side& s) { return s.slots == 0 ? 0 : static_cast<size_t>(s.slots - 1) * s.stride + s.page_bytes; };
  if (a + span(to) <= b || b + span(from) <= a) return false;
  throw Failure(kInvalidArgument,
                "to and from are different views of overlapping memory; expected the same view, or memory apart.");
}

void check_devices(const TransferStreamWrap& self, const Side& to, const Side& from) {
  const std::shared_ptr<Device>& device = self.stream.device();
  const auto here = [&](const Side& s) { return s.tensor.storage->device() == device; };
  for (const Side* side : {&to, &from}) {
    if (here(*side) || side->tensor.storage->device()->on_host()) continue;
    throw Failure(kInvalidArgument, std::string(side->name) + " lies on " + side->tensor.storage->device()->label() +
                                        ", expected a tensor of the stream's device, " + device->label() + ", or of the CPU.");
  }
  if (!here(to) && !here(from))
    throw Failure(kInvalidArgument, "Neither to nor from lies on the stream's device, " + device->label() + ".");
}

std::shared_ptr<PageTransfer> transfer_of(const Side& to, const Side& from, const Slots& to_slots, const Slots& from_slots) {
  auto transfer = std::make_shared<PageTransfer>();
  transfer->slots.assign(to_slots.data, to_slots.data + to_slots.count);
  transfer->slots.insert(transfer->slots.end(), from_slots.data, from_slots.data + from_slots.count);
  kvasir_page_copy& copy = transfer->copy;
  copy.to = to.tensor.view.data;
  copy.from = from.tensor.view.data;
  copy.to_stride = to.stride;
  copy.from_stride = from.stride;
  copy.to_slots = transfer->slots.data();
  copy.from_slots = copy.to_slots + to_slots.count;
  copy.count = static_cast<int32_t>(to_slots.count);
  return transfer;
}

void check_bytes(const Side& side, const char* offset_name, size_t offset, size_t bytes) {
  if (offset <= side.page_bytes && bytes <= side.page_bytes - offset) return;
  throw Failure(kInvalidArgument, std::string(offset_name) + " is " + std::to_string(offset) + " and bytes is " +
                                      std::to_string(bytes) + ", expected a range within the " + std::to_string(side.page_bytes) +
                                      " bytes of a page of " + side.name + ".");
}

// copyPages(to, toSlots, toOffset, from, fromSlots, fromOffset, bytes, path)
napi_value copy_pages(TransferStreamWrap& self, Call& call) {
  self.stream.check_usable();
  const Side to = side_of(call, 0, "to"), from = side_of(call, 3, "from");
  check_devices(self, to, from);
  const Slots to_slots = slots_of(call, 1, "toSlots"), from_slots = slots_of(call, 4, "fromSlots");
  if (to_slots.count != from_slots.count)
    throw Failure(kInvalidArgument, "toSlots has " + std::to_string(to_slots.count) + " entries and fromSlots " +
                                        std::to_string(from_slots.count) + ", expected as many in both.");
  if (to_slots.count > INT32_MAX) throw Failure(kInvalidArgument, "toSlots has more than 2^31 entries, expected fewer.");
  check_range(to_slots, to, "toSlots");
  check_range(from_slots, from, "fromSlots");
  check_distinct(to_slots, from_slots, share_memory(to, from), to.slots);
  const std::shared_ptr<PageTransfer> transfer = transfer_of(to, from, to_slots, from_slots);
  kvasir_page_copy& copy = transfer->copy;
  copy.to_offset = static_cast<size_t>(call.integer(2, "toOffset", 0, kMostBytes));
  copy.from_offset = static_cast<size_t>(call.integer(5, "fromOffset", 0, kMostBytes));
  copy.bytes = static_cast<size_t>(call.integer(6, "bytes", 0, kMostBytes));
  copy.path = static_cast<int32_t>(call.integer(7, "path", KVASIR_COPY_AUTO, KVASIR_COPY_KERNEL));
  check_bytes(to, "toOffset", copy.to_offset, copy.bytes);
  check_bytes(from, "fromOffset", copy.from_offset, copy.bytes);
  if (copy.bytes == 0) copy.count = 0;
  const napi_value object = new_object(call.bindings, std::make_unique<TransferWrap>(self.bindings, transfer));
  auto completion = std::make_unique<Completion>(call.bindings.completions);
  const napi_value promise = call.bindings.completions.begin(self.stream, *completion);
  ok(call.env, napi_set_named_property(call.env, object, "settled", promise));
  self.stream.copy_pages(to.tensor.storage, from.tensor.storage, transfer, std::move(completion));
  return object;
}

napi_value finished(TransferStreamWrap& self, Call& call) {
  self.stream.check_usable();
  auto completion = std::make_unique<Completion>(call.bindings.completions);
  const napi_value promise = call.bindings.completions.begin(self.stream, *completion);
  self.stream.notify(std::move(completion));
  return promise;
}

const std::shared_ptr<Event>& event_of(Call& call) {
  const EventWrap& wrap = call.object<EventWrap>(0, "event");
  if (wrap.event == nullptr) throw Failure(kDisposed, "The event was disposed; create another.");
  return wrap.event;
}

napi_value record_event(TransferStreamWrap& self, Call& call) {
  self.stream.check_usable();
  self.stream.record_event(event_of(call));
  return call.undefined();
}

napi_value wait_event(TransferStreamWrap& self, Call& call) {
  self.stream.check_usable();
  self.stream.wait_event(event_of(call));
  return call.undefined();
}

int slot_of(Call& call, size_t index) { return static_cast<int>(call.integer(index, "slot", 0, KVASIR_STAMP_SLOTS - 1)); }

napi_value stamp(TransferStreamWrap& self, Call& call) {
  self.stream.check_usable();
  self.stream.stamp(slot_of(call, 0));
  return call.undefined();
}

napi_value elapsed(TransferStreamWrap& self, Call& call) {
  self.stream.check_usable();
  return call.value(self.stream.elapsed_microseconds(slot_of(call, 0), slot_of(call, 1)));
}

napi_value dispose(TransferStreamWrap& self, Call& call) {
  self.stream.dispose();
  return call.undefined();
}

napi_value cancel(TransferWrap& self, Call& call) { return call.boolean(self.transfer->cancel()); }

}  // namespace

void define_transfer_stream(Bindings& b) {
  using S = TransferStreamWrap;
  define_class(
      b, Kind::transfer_stream, "NativeTransferStream",
      {method_of<S, copy_pages, 8>("copyPages", b), method_of<S, finished>("finished", b),
       method_of<S, record_event>("recordEvent", b), method_of<S, wait_event>("waitEvent", b), method_of<S, stamp>("stamp", b),
       method_of<S, elapsed>("elapsedMicroseconds", b), method_of<S, dispose>("dispose", b)});
  define_class(b, Kind::transfer, "NativeTransfer", {method_of<TransferWrap, cancel>("cancel", b)});
}

}  // namespace kvasir::addon
