// The CUDA backend: the ABI's tables, filled. kvasir_backend_init is the one symbol that leaves the library.
#include <iterator>

#include "../native/core/status.h"
#include "common/check.h"
#include "ops.h"
#include "runtime/blas.h"
#include "runtime/page_copy.h"
#include "runtime/pinned.h"
#include "runtime/probe.h"
#include "runtime/watcher.h"

namespace kvasir::cuda {

namespace {

// ---- the op table

template <class Args>
using Launcher = kvasir_status (*)(kvasir_stream*, const Args&, void*, size_t, kvasir_error*);
template <class Args>
using Query = size_t (*)(kvasir_device*, const Args&);

template <class Args, Launcher<Args> launch>
kvasir_status enqueue(kvasir_stream* stream, const void* args, void* workspace, size_t bytes, kvasir_error* err) {
  if (const kvasir_status status = stream->device().enter(err); status != KVASIR_OK) return status;
  return launch(stream, *static_cast<const Args*>(args), workspace, bytes, err);
}
template <class Args, Query<Args> query>
size_t ask_workspace(kvasir_device* device, const void* args) {
  return query(device, *static_cast<const Args*>(args));
}

template <class Args, Launcher<Args> launch>
constexpr kvasir_op op(const char* name) {
  return {name, nullptr, enqueue<Args, launch>};
}
template <class Args, Launcher<Args> launch, Query<Args> query>
constexpr kvasir_op op(const char* name) {
  return {name, ask_workspace<Args, query>, enqueue<Args, launch>};
}

constexpr kvasir_op kOps[] = {
    op<kvasir_attention_args, launch_attention, attention_workspace>("attention"),
    {"attention_reference", nullptr, nullptr},
    op<kvasir_merge_args, launch_merge>("merge"),
    op<kvasir_append_args, launch_append>("append"),
    op<kvasir_rope_args, launch_rope>("rope"),
    op<kvasir_rms_norm_args, launch_rms_norm>("rms_norm"),
    op<kvasir_silu_mul_args, launch_silu_mul>("silu_mul"),
    op<kvasir_embedding_args, launch_embedding>("embedding"),
    op<kvasir_linear_args, launch_linear, linear_workspace>("linear"),
    op<kvasir_argmax_args, launch_argmax>("argmax"),
    op<kvasir_sample_args, launch_sample>("sample"),
    op<kvasir_advance_args, launch_advance>("advance"),
    op<kvasir_cross_entropy_args, launch_cross_entropy>("cross_entropy"),
    op<kvasir_compare_logits_args, launch_compare_logits>("compare_logits"),
    op<kvasir_cast_args, launch_cast>("cast"),
    op<kvasir_probe_read_args, launch_probe_read>("probe_read"),
    {"probe_fma", nullptr, nullptr},
};
static_assert(std::size(kOps) == KVASIR_OP_COUNT);

// ---- devices

kvasir_status device_open(const kvasir_device_options* options, kvasir_device** out, kvasir_error* err) {
  return kvasir_device::open(*options, out, err);
}
void device_close(kvasir_device* device) { delete device; }

void device_info(kvasir_device* device, kvasir_device_info* info) {
  const Limits& limits = device->limits();
  *info = {};
  snprintf(info->name, sizeof info->name, "%s", limits.name);
  snprintf(info->isa, sizeof info->isa, "sm_%d%d", limits.cc_major, limits.cc_minor);
  info->total_bytes = limits.total_bytes;
  info->multiprocessors = limits.sm_count;
  device->check(cudaDriverGetVersion(&info->driver_version), "the look at the driver's version", nullptr);
  info->runtime_version = CUDART_VERSION;
  info->has_blas = Blas::available();
  info->l2_bytes = limits.l2_bytes;
}

kvasir_status device_status(kvasir_device* device, kvasir_error* err) { return device->status(err); }

kvasir_status memory_info(kvasir_device* device, int64_t* free_bytes, int64_t* total_bytes, kvasir_error* err) {
  if (const kvasir_status status = device->enter(err); status != KVASIR_OK) return status;
  size_t available = 0, total = 0;
  const kvasir_status status = device->check(cudaMemGetInfo(&available, &total), "the look at free memory", err);
  *free_bytes = static_cast<int64_t>(available);
  *total_bytes = static_cast<int64_t>(total);
  return status;
}

kvasir_status alloc(kvasir_device* device, size_t bytes, void** out, kvasir_error* err) { return device->alloc(bytes, out, err); }
void free_memory(kvasir_device* device, void* data) { device->free(data); }
kvasir_status alloc_host(kvasir_device* device, size_t bytes, void** out, kvasir_error* err) {
  return host_alloc(*device, bytes, out, err);
}
void free_host(kvasir_device* device, void* data) { host_free(*device, data); }
kvasir_status register_host(kvasir_device* device, void* data, size_t bytes, kvasir_error* err) {
  return host_register(*device, data, bytes, err);
}
void unregister_host(kvasir_device* device, void* data) { host_unregister(*device, data); }

// ---- streams

kvasir_status stream_create(kvasir_device* device, kvasir_stream** out, kvasir_error* err) {
  return kvasir_stream::create(*device, out, err);
}
void stream_destroy(kvasir_stream* stream) { delete stream; }
kvasir_status stream_status(kvasir_stream* stream, kvasir_error* err) { return stream->status(err); }
kvasir_status stream_synchronize(kvasir_stream* stream, kvasir_error* err) { return stream->synchronize(err); }
kvasir_status stream_callback(kvasir_stream* stream, void (*fn)(void*, kvasir_status, const char*), void* user,
                              kvasir_error* err) {
  return stream->callback(fn, user, err);
}
kvasir_status copy_in(kvasir_stream* stream, void* dst, const void* host_src, size_t bytes, int32_t settled, kvasir_error* err) {
  return stream->copy_in(dst, host_src, bytes, settled != 0, err);
}
kvasir_status copy_out(kvasir_stream* stream, void* host_dst, const void* src, size_t bytes, kvasir_error* err) {
  return stream->copy_out(host_dst, src, bytes, err);
}
kvasir_status copy(kvasir_stream* stream, void* dst, const void* src, size_t bytes, kvasir_error* err) {
  if (const kvasir_status status = stream->device().enter(err); status != KVASIR_OK || bytes == 0) return status;
  return stream->device().check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, stream->handle()), "a copy", err);
}
kvasir_status fill(kvasir_stream* stream, void* dst, uint8_t value, size_t bytes, kvasir_error* err) {
  if (const kvasir_status status = stream->device().enter(err); status != KVASIR_OK || bytes == 0) return status;
  return stream->device().check(cudaMemsetAsync(dst, value, bytes, stream->handle()), "a fill", err);
}
kvasir_status copy_scattered(kvasir_stream* stream, const kvasir_page_copy* copy, kvasir_error* err) {
  return copy_pages(*stream, *copy, err);
}
kvasir_status flag_write(kvasir_stream* stream, uint64_t* flag, uint64_t value, const uint64_t* base, kvasir_error* err) {
  return stream->flag_write(flag, value, base, err);
}
kvasir_status flag_wait(kvasir_stream* stream, const uint64_t* flag, uint64_t value, const uint64_t* base, kvasir_error* err) {
  return stream->flag_wait(flag, value, base, err);
}
kvasir_status record_begin(kvasir_stream* stream, kvasir_error* err) { return stream->record_begin(err); }
kvasir_status record_end(kvasir_stream* stream, kvasir_program** out, kvasir_error* err) { return stream->record_end(out, err); }
kvasir_status program_launch(kvasir_program* program, kvasir_stream* stream, kvasir_error* err) {
  return stream->launch(*program, err);
}
void program_destroy(kvasir_program* program) {
  if (program != nullptr) program->device->watcher().retire(program);
}
kvasir_status stamp(kvasir_stream* stream, int32_t slot, kvasir_error* err) { return stream->stamp(slot, err); }
kvasir_status elapsed_us(kvasir_stream* stream, int32_t from, int32_t to, double* out, kvasir_error* err) {
  return stream->elapsed_us(from, to, out, err);
}

constexpr kvasir_backend make_backend() {
  kvasir_backend b{};
  b.abi_version = KVASIR_ABI_VERSION;
  b.op_count = KVASIR_OP_COUNT;
  b.name = "cuda";
  b.ops = kOps;
  b.probe = count_usable_devices;
  b.device_open = device_open;
  b.device_close = device_close;
  b.device_info = device_info;
  b.device_status = device_status;
  b.memory_info = memory_info;
  b.alloc = alloc;
  b.free = free_memory;
  b.host_alloc = alloc_host;
  b.host_free = free_host;
  b.host_register = register_host;
  b.host_unregister = unregister_host;
  b.stream_create = stream_create;
  b.stream_destroy = stream_destroy;
  b.stream_status = stream_status;
  b.stream_synchronize = stream_synchronize;
  b.stream_callback = stream_callback;
  b.copy_in = copy_in;
  b.copy_out = copy_out;
  b.copy = copy;
  b.fill = fill;
  b.copy_pages = copy_scattered;
  b.flag_write = flag_write;
  b.flag_wait = flag_wait;
  b.record_begin = record_begin;
  b.record_end = record_end;
  b.program_launch = program_launch;
  b.program_destroy = program_destroy;
  b.stamp = stamp;
  b.elapsed_us = elapsed_us;
  return b;
}

constexpr kvasir_backend kBackend = make_backend();

}  // namespace

}  // namespace kvasir::cuda

extern "C" __attribute__((visibility("default"))) const kvasir_backend* kvasir_backend_init() { return &kvasir::cuda::kBackend; }
