#include "transfers.h"

#include <cstdlib>
#include <cstring>

#include "../core/dtype.h"
#include "host_array.h"
#include "load_file.h"

namespace kvasir::addon {

namespace {

// Strided tensors with at most this many contiguous runs are copied run by run; beyond it the whole span travels, or an op
// gathers.
constexpr int64_t kMostRuns = 64;
constexpr int64_t kMostOffset = int64_t{1} << 53;

// The contiguous runs of a strided view, in order: visit(offset in elements). Dimensions [0, outer) step from run to run.
struct Runs {
  explicit Runs(const kvasir_tensor& v) : view(v), outer(v.rank), length(1) {
    while (outer > 0 && (view.shape[outer - 1] == 1 || view.stride[outer - 1] == length)) length *= view.shape[--outer];
    for (int i = 0; i < outer; ++i) count *= view.shape[i];
  }
  template <class Visit>
  void each(const Visit& visit) const {
    int64_t at[KVASIR_MAX_RANK] = {};
    for (int64_t run = 0; run < count; ++run) {
      int64_t offset = 0;
      for (int i = 0; i < outer; ++i) offset += at[i] * view.stride[i];
      visit(offset);
      for (int i = outer - 1; i >= 0 && ++at[i] == view.shape[i]; --i) at[i] = 0;
    }
  }
  kvasir_tensor view;
  int outer;
  int64_t length;  // elements of a run
  int64_t count = 1;
};

size_t width_of(const TensorWrap& tensor) { return static_cast<size_t>(dtype_bytes(tensor.view.dtype)); }

void need_contiguous(const TensorWrap& tensor, const char* what) {
  if (!tensor.contiguous())
    throw Failure(kInvalidArgument, std::string(what) + " needs a contiguous tensor; this one is a strided view.");
}

void need_device(const StreamWrap& self, const TensorWrap& tensor, const char* name) {
  tensor.check_usable(name);
  if (tensor.storage->device() == self.stream.device()) return;
  throw Failure(kInvalidArgument, std::string(name) + " lies on " + tensor.storage->device()->label() +
                                      ", expected a tensor of the stream's device, " + self.stream.device()->label() + ".");
}

}  // namespace

napi_value write_tensor(StreamWrap& self, Call& call) {
  Stream& stream = self.stream;
  stream.check_usable();
  stream.check_not_recording("A write from JavaScript");
  TensorWrap& tensor = call.object<TensorWrap>(0, "tensor");
  need_device(self, tensor, "The tensor");
  need_contiguous(tensor, "A write");
  const HostArray array = host_array(call, 1, "data", width_of(tensor));
  if (array.bytes != tensor.bytes()) {
    throw Failure("ERR_KVASIR_SHAPE", "data has " + std::to_string(array.bytes / width_of(tensor)) +
                                          " elements, expected the tensor's " + std::to_string(tensor.elements()) + ".");
  }
  auto completion = std::make_unique<Completion>(call.bindings.completions);
  ok(call.env, napi_create_reference(call.env, call.arguments[1], 1, &completion->array));
  if (array.bytes != 0) stream.copy_in(tensor.storage, static_cast<char*>(tensor.view.data), array.data, array.bytes, true);
  return call.bindings.completions.promise(stream, std::move(completion));
}

napi_value read_tensor(StreamWrap& self, Call& call) {
  Stream& stream = self.stream;
  stream.check_usable();
  stream.check_not_recording("A read into JavaScript");
  TensorWrap& tensor = call.object<TensorWrap>(0, "tensor");
  need_device(self, tensor, "The tensor");
  napi_value buffer = nullptr;
  void* data = nullptr;
  if (napi_create_arraybuffer(call.env, tensor.bytes(), &data, &buffer) != napi_ok) throw Napi::Error::New(call.env);
  auto completion = std::make_unique<Completion>(call.bindings.completions);
  completion->gives_array = true;
  ok(call.env, napi_create_reference(call.env, buffer, 1, &completion->array));
  const Runs runs(tensor.view);
  const size_t width = width_of(tensor), run_bytes = static_cast<size_t>(runs.length) * width;
  const char* from = static_cast<const char*>(tensor.view.data);
  char* to = static_cast<char*>(data);
  if (tensor.bytes() == 0) return call.bindings.completions.promise(stream, std::move(completion));
  if (runs.count <= kMostRuns) {
    runs.each([&](int64_t offset) {
      stream.copy_out(tensor.storage, to, from + static_cast<size_t>(offset) * width, run_bytes);
      to += run_bytes;
    });
    return call.bindings.completions.promise(stream, std::move(completion));
  }
  const size_t span = static_cast<size_t>(span_of(tensor.view)) * width;
  const std::shared_ptr<char> staging(static_cast<char*>(std::malloc(span)), std::free);
  if (staging == nullptr)
    throw Failure(kOutOfMemory, "The host has no " + std::to_string(span) + " bytes for the span of this strided tensor.");
  stream.copy_out(tensor.storage, staging.get(), from, span);
  completion->finish = [runs, width, run_bytes, to, staging]() mutable {
    runs.each([&](int64_t offset) {
      std::memcpy(to, staging.get() + static_cast<size_t>(offset) * width, run_bytes);
      to += run_bytes;
    });
  };
  return call.bindings.completions.promise(stream, std::move(completion));
}

napi_value load_tensor(StreamWrap& self, Call& call) {
  Stream& stream = self.stream;
  stream.check_usable();
  stream.check_not_recording("Reading a file");
  TensorWrap& tensor = call.object<TensorWrap>(0, "tensor");
  need_device(self, tensor, "The tensor");
  need_contiguous(tensor, "Reading a file");
  const std::string path = call.string(1, "path");
  const uint64_t offset = static_cast<uint64_t>(call.integer(2, "offset", 0, kMostOffset));
  auto completion = std::make_unique<Completion>(call.bindings.completions);
  completion->storage = tensor.storage;
  completion->load = load_file(stream, tensor.storage, static_cast<char*>(tensor.view.data), tensor.bytes(), path, offset);
  return call.bindings.completions.promise(stream, std::move(completion));
}

napi_value copy_tensor(StreamWrap& self, Call& call) {
  Stream& stream = self.stream;
  stream.check_usable();
  TensorWrap& target = call.object<TensorWrap>(0, "target");
  TensorWrap& source = call.object<TensorWrap>(1, "source");
  target.check_usable("The target");
  source.check_usable("The source");
  if (target.view.dtype != source.view.dtype) {
    throw Failure("ERR_KVASIR_DTYPE", std::string("The source is ") + dtype_name(source.view.dtype) + ", expected the target's " +
                                          dtype_name(target.view.dtype) + "; cast converts.");
  }
  if (target.view.rank != source.view.rank ||
      !std::equal(target.view.shape, target.view.shape + target.view.rank, source.view.shape)) {
    throw Failure("ERR_KVASIR_SHAPE", "The source and the target differ in shape; reshape one of them first.");
  }
  const std::shared_ptr<Device>& device = stream.device();
  const auto reachable = [&](const TensorWrap& t) { return t.storage->device() == device || t.storage->device()->on_host(); };
  if (!reachable(target) || !reachable(source) || (target.storage->device() != device && source.storage->device() != device)) {
    throw Failure(kInvalidArgument,
                  "A copy on " + device->label() +
                      " has one tensor there and the other there or on the CPU; copy between GPUs through the CPU.");
  }
  if (target.elements() == 0) return call.undefined();
  char* to = static_cast<char*>(target.view.data);
  const char* from = static_cast<const char*>(source.view.data);
  if (target.contiguous() && source.contiguous()) {
    stream.copy(target.storage, to, source.storage, from, target.bytes());
    return call.undefined();
  }
  const bool castable = target.view.dtype != KVASIR_U8 && target.view.dtype != KVASIR_I8;
  if (castable && target.storage->device() == device && source.storage->device() == device) {
    const kvasir_cast_args args{source.view, target.view};
    const std::shared_ptr<Storage>* storages[] = {&source.storage, &target.storage};
    stream.run(KVASIR_OP_CAST, &args, storages);
    return call.undefined();
  }
  const Runs target_runs(target.view), source_runs(source.view);
  const int64_t length = std::min(target_runs.length, source_runs.length), count = target.elements() / length;
  if (count > kMostRuns)
    throw Failure(kUnsupported,
                  "This copy of a strided tensor falls into " + std::to_string(count) + " pieces; make it contiguous first.");
  const size_t width = width_of(target);
  std::vector<int64_t> source_offsets;
  source_runs.each([&](int64_t offset) {
    for (int64_t at = 0; at < source_runs.length; at += length) source_offsets.push_back(offset + at);
  });
  size_t next = 0;
  target_runs.each([&](int64_t offset) {
    for (int64_t at = 0; at < target_runs.length; at += length) {
      stream.copy(target.storage, to + static_cast<size_t>(offset + at) * width, source.storage,
                  from + static_cast<size_t>(source_offsets[next++]) * width, static_cast<size_t>(length) * width);
    }
  });
  return call.undefined();
}

napi_value fill_tensor(StreamWrap& self, Call& call) {
  Stream& stream = self.stream;
  stream.check_usable();
  TensorWrap& tensor = call.object<TensorWrap>(0, "tensor");
  need_device(self, tensor, "The tensor");
  const uint8_t byte = static_cast<uint8_t>(call.integer(1, "byte", 0, 255));
  const Runs runs(tensor.view);
  if (tensor.elements() == 0) return call.undefined();
  if (runs.count > kMostRuns)
    throw Failure(kUnsupported,
                  "This strided tensor falls into " + std::to_string(runs.count) + " pieces; fill a contiguous one.");
  const size_t width = width_of(tensor);
  runs.each([&](int64_t offset) {
    stream.fill(tensor.storage, static_cast<char*>(tensor.view.data) + static_cast<size_t>(offset) * width, byte,
                static_cast<size_t>(runs.length) * width);
  });
  return call.undefined();
}

}  // namespace kvasir::addon
