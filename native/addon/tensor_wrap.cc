#include <algorithm>
#include <limits>

#include "../core/dtype.h"
#include "host_memory.h"
#include "wraps.h"

namespace kvasir::addon {

namespace {

constexpr int64_t kMostBytes = int64_t{1} << 53;

std::string shape_text(const kvasir_tensor& view) {
  std::string text = "[";
  for (int i = 0; i < view.rank; ++i) text += (i == 0 ? "" : ", ") + std::to_string(view.shape[i]);
  return text + "]";
}

napi_value array_of(Call& call, const int64_t* values, int count) {
  napi_value array = nullptr;
  ok(call.env, napi_create_array_with_length(call.env, static_cast<size_t>(count), &array));
  for (int i = 0; i < count; ++i)
    ok(call.env, napi_set_element(call.env, array, static_cast<uint32_t>(i), call.value(static_cast<double>(values[i]))));
  return array;
}

void read_shape(Call& call, size_t index, kvasir_tensor& view) {
  view.rank = static_cast<int32_t>(call.integers(index, "shape", view.shape));
  if (view.rank == 0)
    throw Failure(kInvalidArgument, "shape is empty, expected 1 to 4 dimensions; a single value has the shape [1].");
}

napi_value view_of(TensorWrap& self, Call& call) {
  self.check_usable("The tensor");
  kvasir_tensor view = self.view;
  const int64_t offset = call.integer(0, "offset", 0, kMostBytes);
  read_shape(call, 1, view);
  const size_t strides = call.integers(2, "strides", view.stride);
  if (strides != static_cast<size_t>(view.rank)) {
    throw Failure(kInvalidArgument, "strides has " + std::to_string(strides) + " entries, expected one for each of the " +
                                        std::to_string(view.rank) + " dimensions.");
  }
  int64_t& innermost = view.stride[view.rank - 1];
  if (view.shape[view.rank - 1] <= 1) innermost = 1;
  if (innermost != 1) throw Failure(kInvalidArgument, "The innermost stride is " + std::to_string(innermost) + ", expected 1.");
  const int64_t width = dtype_bytes(view.dtype), reach = static_cast<char*>(self.view.data) - self.storage->data();
  const int64_t room = (static_cast<int64_t>(self.storage->bytes()) - reach) / width;
  if (const int64_t span = span_of(view); span > room || offset > room - span) {
    throw Failure(kInvalidArgument, "A view of shape " + shape_text(view) + " at offset " + std::to_string(offset) +
                                        " ends past the tensor's memory, which has " + std::to_string(room) +
                                        " elements from the tensor's first.");
  }
  view.data = static_cast<char*>(view.data) + offset * width;
  return new_object(call.bindings, std::make_unique<TensorWrap>(self.bindings, self.storage, view));
}

napi_value dispose(TensorWrap& self, Call& call) {
  self.storage.reset();
  return call.undefined();
}

napi_value pinned(TensorWrap& self, Call& call) {
  self.check_usable("The tensor");
  return call.boolean(self.storage->host_memory() != nullptr && self.storage->host_memory()->pinned());
}

napi_value bytes_ready(TensorWrap& self, Call& call) {
  self.check_usable("The tensor");
  const HostMemory* memory = self.storage->host_memory();
  return call.value(static_cast<double>(memory == nullptr ? self.storage->bytes() : memory->bytes_ready()));
}

napi_value abort_preparing(TensorWrap& self, Call& call) {
  if (self.storage != nullptr && self.storage->host_memory() != nullptr) self.storage->host_memory()->abort();
  return call.undefined();
}

napi_value dtype(TensorWrap& self, Call& call) { return call.value(self.view.dtype); }
napi_value shape(TensorWrap& self, Call& call) { return array_of(call, self.view.shape, self.view.rank); }
napi_value strides(TensorWrap& self, Call& call) { return array_of(call, self.view.stride, self.view.rank); }

}  // namespace

int64_t span_of(const kvasir_tensor& view) {
  int64_t last = 0;
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] == 0) return 0;
    int64_t step = 0;
    if (__builtin_mul_overflow(view.shape[i] - 1, view.stride[i], &step) || __builtin_add_overflow(last, step, &last)) {
      return std::numeric_limits<int64_t>::max();
    }
  }
  return last + 1;
}

int64_t TensorWrap::elements() const {
  int64_t count = 1;
  for (int i = 0; i < view.rank; ++i) count *= view.shape[i];
  return count;
}

size_t TensorWrap::bytes() const { return static_cast<size_t>(elements() * dtype_bytes(view.dtype)); }

bool TensorWrap::contiguous() const {
  if (elements() == 0) return true;
  int64_t stride = 1;
  for (int i = view.rank - 1; i >= 0; --i) {
    if (view.shape[i] > 1 && view.stride[i] != stride) return false;
    stride *= view.shape[i];
  }
  return true;
}

void TensorWrap::check_usable(const char* name) const {
  if (storage == nullptr) throw Failure(kDisposed, std::string(name) + " was disposed.");
}

// The dtype and shape of a new tensor, and the bytes that it takes.
static size_t read_layout(Call& call, kvasir_tensor& view) {
  view.dtype = static_cast<int32_t>(call.integer(0, "dtype", KVASIR_F32, KVASIR_I8));
  read_shape(call, 1, view);
  int64_t elements = 1;
  for (int i = view.rank - 1; i >= 0; --i) {
    view.stride[i] = elements;
    if (__builtin_mul_overflow(elements, std::max<int64_t>(1, view.shape[i]), &elements) ||
        elements > kMostBytes / dtype_bytes(view.dtype)) {
      throw Failure(kOutOfMemory, "A tensor of shape " + shape_text(view) + " exceeds any device's memory.");
    }
  }
  const bool empty = std::find(view.shape, view.shape + view.rank, 0) != view.shape + view.rank;
  return empty ? 0 : static_cast<size_t>(elements * dtype_bytes(view.dtype));
}

napi_value create_tensor(Call& call, const std::shared_ptr<Device>& device) {
  kvasir_tensor view{};
  auto storage = std::make_shared<Storage>(device, read_layout(call, view));
  view.data = storage->data();
  return new_object(call.bindings, std::make_unique<TensorWrap>(call.bindings.shared_from_this(), std::move(storage), view));
}

napi_value create_host_tensor(Call& call, const std::shared_ptr<Device>& device, std::shared_ptr<Device> pinned_for) {
  kvasir_tensor view{};
  const size_t bytes = read_layout(call, view);
  bool allow_unpinned = false;
  if (napi_get_value_bool(call.env, call.arguments[3], &allow_unpinned) != napi_ok) call.wrong(3, "allowUnpinned", "boolean");
  const int threads = static_cast<int>(call.integer(4, "threads", 1, 4096));
  const auto memory = std::make_shared<HostMemory>(device, bytes, std::move(pinned_for), allow_unpinned);
  auto storage = std::make_shared<Storage>(device, memory);
  view.data = storage->data();
  napi_value object = nullptr;
  ok(call.env, napi_create_object(call.env, &object));
  auto wrap = std::make_unique<TensorWrap>(call.bindings.shared_from_this(), std::move(storage), view);
  ok(call.env, napi_set_named_property(call.env, object, "tensor", new_object(call.bindings, std::move(wrap))));
  auto completion = std::make_unique<Completion>(call.bindings.completions);
  ok(call.env, napi_set_named_property(call.env, object, "ready", call.bindings.completions.begin(device, nullptr, *completion)));
  memory->prepare(std::move(completion), threads);
  return object;
}

void define_tensor(Bindings& b) {
  define_class(b, Kind::tensor, "NativeTensor",
               {getter_of<TensorWrap, dtype>("dtype", b), getter_of<TensorWrap, shape>("shape", b),
                getter_of<TensorWrap, strides>("strides", b), method_of<TensorWrap, view_of>("view", b),
                method_of<TensorWrap, pinned>("pinned", b), method_of<TensorWrap, bytes_ready>("bytesReady", b),
                method_of<TensorWrap, abort_preparing>("abortPreparing", b), method_of<TensorWrap, dispose>("dispose", b)});
}

}  // namespace kvasir::addon
