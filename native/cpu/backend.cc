#include "backend.h"

#include <algorithm>
#include <cstdio>
#include <future>
#include <memory>
#include <new>

#include "host.h"
#include "stream.h"

namespace kvasir::cpu {

namespace {

// Runs body and turns what it throws into a status: nothing crosses the ABI but statuses.
template <class Body>
kvasir_status guarded(kvasir_error* err, const Body& body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return fail(err, KVASIR_OUT_OF_MEMORY, "The host has no memory left for this call.");
  } catch (const std::exception& error) {
    return fail(err, KVASIR_INTERNAL, "The CPU backend failed: %s.", error.what());
  }
}

// Queues a command unless the device is lost.
template <class Command>
kvasir_status submit(kvasir_stream* stream, kvasir_error* err, const Command& command, const void* tail = nullptr,
                     size_t tail_bytes = 0) {
  if (stream->device().lost()) return stream->device().status(err);
  return guarded(err, [&] {
    stream->push(command, tail, tail_bytes);
    return KVASIR_OK;
  });
}

kvasir_status refuse_in_recording(kvasir_stream* stream, const char* what, kvasir_error* err) {
  if (!stream->recording()) return KVASIR_OK;
  return fail(err, KVASIR_UNSUPPORTED, "%s cannot be part of a program; do it before or after the recording.", what);
}

// ---- the op table

template <class Args, void (*run)(Context&, const Args&)>
void call_op(Context& context, const void* args) {
  run(context, *static_cast<const Args*>(args));
}

template <kvasir_op_id id, class Args, void (*run)(Context&, const Args&)>
kvasir_status enqueue_op(kvasir_stream* stream, const void* args, void* workspace, size_t, kvasir_error* err);

template <class Args, size_t (*query)(const Args&, int)>
size_t query_workspace(kvasir_device* device, const void* args) {
  return query(*static_cast<const Args*>(args), device->pool.size());
}

template <kvasir_op_id id, class Args, void (*run)(Context&, const Args&)>
constexpr kvasir_op op(const char* name) {
  return {name, nullptr, enqueue_op<id, Args, run>};
}
template <kvasir_op_id id, class Args, void (*run)(Context&, const Args&), size_t (*query)(const Args&, int)>
constexpr kvasir_op op(const char* name) {
  return {name, query_workspace<Args, query>, enqueue_op<id, Args, run>};
}

constexpr kvasir_op kOps[] = {
    op<KVASIR_OP_ATTENTION, kvasir_attention_args, attention, attention_workspace>("attention"),
    op<KVASIR_OP_ATTENTION_REFERENCE, kvasir_attention_args, attention_reference>("attention_reference"),
    op<KVASIR_OP_MERGE, kvasir_merge_args, merge>("merge"),
    op<KVASIR_OP_APPEND, kvasir_append_args, append>("append"),
    op<KVASIR_OP_ROPE, kvasir_rope_args, rope>("rope"),
    op<KVASIR_OP_RMS_NORM, kvasir_rms_norm_args, rms_norm>("rms_norm"),
    op<KVASIR_OP_SILU_MUL, kvasir_silu_mul_args, silu_mul>("silu_mul"),
    op<KVASIR_OP_EMBEDDING, kvasir_embedding_args, embedding>("embedding"),
    op<KVASIR_OP_LINEAR, kvasir_linear_args, linear, linear_workspace>("linear"),
    op<KVASIR_OP_ARGMAX, kvasir_argmax_args, argmax>("argmax"),
    op<KVASIR_OP_SAMPLE, kvasir_sample_args, sample>("sample"),
    op<KVASIR_OP_ADVANCE, kvasir_advance_args, advance>("advance"),
    op<KVASIR_OP_CROSS_ENTROPY, kvasir_cross_entropy_args, cross_entropy>("cross_entropy"),
    op<KVASIR_OP_COMPARE_LOGITS, kvasir_compare_logits_args, compare_logits>("compare_logits"),
    op<KVASIR_OP_CAST, kvasir_cast_args, cast>("cast"),
    op<KVASIR_OP_PROBE_READ, kvasir_probe_read_args, probe_read>("probe_read"),
    op<KVASIR_OP_PROBE_FMA, kvasir_probe_fma_args, probe_fma>("probe_fma"),
};
static_assert(std::size(kOps) == KVASIR_OP_COUNT);

template <kvasir_op_id id, class Args, void (*run)(Context&, const Args&)>
kvasir_status enqueue_op(kvasir_stream* stream, const void* args, void* workspace, size_t, kvasir_error* err) {
  return submit(stream, err, OpCommand{call_op<Args, run>, kOps[id].name, workspace}, args, sizeof(Args));
}

// ---- devices and memory

int32_t probe(kvasir_error*) { return 1; }

kvasir_status device_open(const kvasir_device_options* options, kvasir_device** out, kvasir_error* err) {
  if (options->index != 0)
    return fail(err, KVASIR_UNAVAILABLE, "There is one CPU device, with index 0; received index %d.", options->index);
  return guarded(err, [&] {
    *out = new kvasir_device(*options);
    return KVASIR_OK;
  });
}

void device_close(kvasir_device* device) {
  for (const auto& [address, bytes] : device->blocks) unmap_memory(address, bytes);
  delete device;
}

void device_info(kvasir_device* device, kvasir_device_info* info) {
  *info = {};
  std::snprintf(info->name, sizeof info->name, "%s", cpu_model().c_str());
  std::snprintf(info->isa, sizeof info->isa, "%s", isa_name(device->isa));
  info->total_bytes = host_memory().total_bytes;
  info->multiprocessors = device->pool.size();
  info->l2_bytes = l2_bytes();
}

kvasir_status device_status(kvasir_device* device, kvasir_error* err) { return device->status(err); }

kvasir_status memory_info(kvasir_device* device, int64_t* free_bytes, int64_t* total_bytes, kvasir_error* err) {
  return guarded(err, [&] {
    const HostMemory host = host_memory();
    const std::lock_guard lock(device->memory_lock);
    *total_bytes = device->memory_limit > 0 ? std::min(device->memory_limit, host.total_bytes) : host.total_bytes;
    *free_bytes =
        device->memory_limit > 0 ? std::min(device->memory_limit - device->allocated, host.free_bytes) : host.free_bytes;
    return KVASIR_OK;
  });
}

kvasir_status allocate(kvasir_device* device, size_t bytes, void** out, kvasir_error* err) {
  constexpr int64_t kLarge = int64_t{64} << 20;  // from here on the system is asked first: it promises more than it has
  return guarded(err, [&] {
    const int64_t want = static_cast<int64_t>(bytes);
    const std::lock_guard lock(device->memory_lock);
    if (device->memory_limit > 0 && want > device->memory_limit - device->allocated) {
      return fail(
          err, KVASIR_OUT_OF_MEMORY, "%lld bytes do not fit the CPU device's memoryLimit of %lld, of which %lld are held.",
          static_cast<long long>(want), static_cast<long long>(device->memory_limit), static_cast<long long>(device->allocated));
    }
    const int64_t available = want >= kLarge ? host_memory().free_bytes : want;
    void* address = want <= available ? map_memory(bytes) : nullptr;
    if (address == nullptr) {
      return fail(err, KVASIR_OUT_OF_MEMORY, "%lld bytes of host memory were asked for, %lld are available.",
                  static_cast<long long>(want), static_cast<long long>(host_memory().free_bytes));
    }
    device->blocks.emplace(address, bytes);
    device->allocated += want;
    *out = address;
    return KVASIR_OK;
  });
}

void release(kvasir_device* device, void* address) {
  size_t bytes = 0;
  {
    const std::lock_guard lock(device->memory_lock);
    const auto block = device->blocks.find(address);
    if (block == device->blocks.end()) return;
    bytes = block->second;
    device->allocated -= static_cast<int64_t>(bytes);
    device->blocks.erase(block);
  }
  unmap_memory(address, bytes);  // takes its time for gigabytes, so that nobody else waits for it
}

kvasir_status host_register(kvasir_device*, void*, size_t, kvasir_error*) { return KVASIR_OK; }
void host_unregister(kvasir_device*, void*) {}

// ---- streams

kvasir_status stream_create(kvasir_device* device, kvasir_stream** out, kvasir_error* err) {
  return guarded(err, [&] {
    *out = new kvasir_stream(*device);
    return KVASIR_OK;
  });
}

void stream_destroy(kvasir_stream* stream) { delete stream; }

kvasir_status stream_callback(kvasir_stream* stream, void (*fn)(void*, kvasir_status, const char*), void* user,
                              kvasir_error* err) {
  if (const kvasir_status status = refuse_in_recording(stream, "A callback", err); status != KVASIR_OK) return status;
  // Queued on a lost device too: whoever waits is told.
  return guarded(err, [&] {
    stream->push(CallbackCommand{fn, user});
    return KVASIR_OK;
  });
}

kvasir_status stream_status(kvasir_stream*, kvasir_error*) { return KVASIR_OK; }

kvasir_status stream_synchronize(kvasir_stream* stream, kvasir_error* err) {
  return guarded(err, [&] {
    // The callback owns the promise, so that this thread may go on before set_value has returned there.
    auto passed = std::make_unique<std::promise<void>>();
    const std::future<void> future = passed->get_future();
    const auto fulfil = [](void* user, kvasir_status, const char*) {
      std::unique_ptr<std::promise<void>>(static_cast<std::promise<void>*>(user))->set_value();
    };
    if (const kvasir_status status = stream_callback(stream, fulfil, passed.get(), err); status != KVASIR_OK) return status;
    passed.release();
    future.wait();
    return stream->device().status(err);
  });
}

kvasir_status copy(kvasir_stream* stream, void* target, const void* source, size_t bytes, kvasir_error* err) {
  return submit(stream, err, CopyCommand{target, source, bytes});
}

kvasir_status copy_host(kvasir_stream* stream, void* target, const void* source, size_t bytes, kvasir_error* err) {
  if (const kvasir_status status = refuse_in_recording(stream, "A copy between JavaScript and the device", err);
      status != KVASIR_OK)
    return status;
  return copy(stream, target, source, bytes, err);
}

kvasir_status copy_in(kvasir_stream* stream, void* target, const void* source, size_t bytes, int32_t, kvasir_error* err) {
  return copy_host(stream, target, source, bytes, err);
}

kvasir_status fill(kvasir_stream* stream, void* target, uint8_t value, size_t bytes, kvasir_error* err) {
  return submit(stream, err, FillCommand{target, bytes, value});
}

kvasir_status copy_pages(kvasir_stream* stream, const kvasir_page_copy* copy, kvasir_error* err) {
  if (const kvasir_status status = refuse_in_recording(stream, "A copy of pages", err); status != KVASIR_OK) return status;
  if (stream->device().lost()) return stream->device().status(err);
  if (copy->count <= 0 || copy->bytes == 0) return KVASIR_OK;
  return guarded(err, [&] {
    const size_t slot_bytes = static_cast<size_t>(copy->count) * sizeof(int32_t);
    stream->push(CopyPagesCommand{*copy}, copy->to_slots, slot_bytes, copy->from_slots, slot_bytes);
    return KVASIR_OK;
  });
}

// A lost device goes on passing flags, for the sake of those that wait for it.
kvasir_status flag_write(kvasir_stream* stream, uint64_t* flag, uint64_t value, const uint64_t* base, kvasir_error* err) {
  return guarded(err, [&] {
    stream->push(FlagWriteCommand{flag, value, base});
    return KVASIR_OK;
  });
}

kvasir_status flag_wait(kvasir_stream* stream, const uint64_t* flag, uint64_t value, const uint64_t* base, kvasir_error* err) {
  return submit(stream, err, FlagWaitCommand{flag, value, base});
}

kvasir_status record_begin(kvasir_stream* stream, kvasir_error* err) {
  if (stream->recording())
    return fail(err, KVASIR_INVALID_ARGUMENT, "The stream is recording a program already; end that one first.");
  return guarded(err, [&] {
    stream->begin_recording();
    return KVASIR_OK;
  });
}

kvasir_status record_end(kvasir_stream* stream, kvasir_program** out, kvasir_error* err) {
  if (!stream->recording()) return fail(err, KVASIR_INVALID_ARGUMENT, "The stream is not recording a program.");
  *out = stream->end_recording();
  return KVASIR_OK;
}

kvasir_status program_launch(kvasir_program* program, kvasir_stream* stream, kvasir_error* err) {
  if (const kvasir_status status = refuse_in_recording(stream, "A launch", err); status != KVASIR_OK) return status;
  program->retain();
  const kvasir_status status = submit(stream, err, LaunchCommand{program});
  if (status != KVASIR_OK) program->release();
  return status;
}

void program_destroy(kvasir_program* program) { program->release(); }

kvasir_status stamp(kvasir_stream* stream, int32_t slot, kvasir_error* err) {
  if (slot < 0 || slot >= KVASIR_STAMP_SLOTS)
    return fail(err, KVASIR_INVALID_ARGUMENT, "Stamp slot %d is outside 0..%d.", slot, KVASIR_STAMP_SLOTS - 1);
  return submit(stream, err, StampCommand{slot});
}

kvasir_status elapsed_us(kvasir_stream* stream, int32_t from, int32_t to, double* out, kvasir_error* err) {
  int64_t at[2];
  for (int i = 0; i < 2; ++i) {
    const int32_t slot = i == 0 ? from : to;
    if (slot < 0 || slot >= KVASIR_STAMP_SLOTS)
      return fail(err, KVASIR_INVALID_ARGUMENT, "Stamp slot %d is outside 0..%d.", slot, KVASIR_STAMP_SLOTS - 1);
    at[i] = stream->stamp_at(slot);
    if (at[i] == 0)
      return fail(err, KVASIR_INVALID_ARGUMENT, "The stream has not passed a stamp of slot %d yet; wait until it has finished.",
                  slot);
  }
  *out = static_cast<double>(at[1] - at[0]) / 1000.0;
  return KVASIR_OK;
}

}  // namespace

const kvasir_backend* backend() {
  static constexpr kvasir_backend table = {
      .abi_version = KVASIR_ABI_VERSION,
      .op_count = KVASIR_OP_COUNT,
      .name = "cpu",
      .ops = kOps,
      .probe = probe,
      .device_open = device_open,
      .device_close = device_close,
      .device_info = device_info,
      .device_status = device_status,
      .memory_info = memory_info,
      .alloc = allocate,
      .free = release,
      .host_alloc = allocate,
      .host_free = release,
      .host_register = host_register,
      .host_unregister = host_unregister,
      .stream_create = stream_create,
      .stream_destroy = stream_destroy,
      .stream_status = stream_status,
      .stream_synchronize = stream_synchronize,
      .stream_callback = stream_callback,
      .copy_in = copy_in,
      .copy_out = copy_host,
      .copy = copy,
      .fill = fill,
      .copy_pages = copy_pages,
      .flag_write = flag_write,
      .flag_wait = flag_wait,
      .record_begin = record_begin,
      .record_end = record_end,
      .program_launch = program_launch,
      .program_destroy = program_destroy,
      .stamp = stamp,
      .elapsed_us = elapsed_us,
  };
  return &table;
}

}  // namespace kvasir::cpu
