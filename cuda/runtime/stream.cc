#include "stream.h"

#include <cuda.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "../../native/core/status.h"
#include "host_kernels.h"
#include "pinned.h"
#include "staging.h"
#include "watcher.h"

using kvasir::fail;
using kvasir::cuda::Watcher;

namespace {

using kvasir::cuda::kStagingBytes;

// Up to so many bytes travel with launches. Copies by way of staging take a host function, and the driver may call that late:
// while another thread hands over thousands of copies it waits for milliseconds.
constexpr size_t kMostStored = size_t{64} << 10;

// A piece of a copy between pageable memory and staging, done by the stream's host function.
struct HostCopy {
  Watcher* watcher;
  void* dst;
  const void* src;
  size_t bytes;
};

void CUDART_CB host_copy(void* raw) {
  auto* copy = static_cast<HostCopy*>(raw);
  if (copy->watcher->begin_host_work()) {
    memcpy(copy->dst, copy->src, copy->bytes);
    copy->watcher->end_host_work();
  }
  delete copy;
}

cudaError_t launch_host_copy(cudaStream_t stream, Watcher& watcher, void* dst, const void* src, size_t bytes) {
  auto* copy = new (std::nothrow) HostCopy{&watcher, dst, src, bytes};
  if (copy == nullptr) return cudaErrorMemoryAllocation;
  const cudaError_t result = cudaLaunchHostFunc(stream, host_copy, copy);
  if (result != cudaSuccess) delete copy;
  return result;
}

// Whether CUDA can copy from or to this memory without staging: pinned host memory, or memory of any GPU.
bool is_direct(const void* p, size_t bytes) {
  if (kvasir::cuda::is_pinned(p, bytes)) return true;
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, p) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
}

// The driver's own stream operations on flags: no kernel, no multiprocessor.
struct MemoryOps {
  using Function = CUresult(CUDAAPI*)(CUstream, CUdeviceptr, cuuint64_t, unsigned int);
  Function write = nullptr, wait = nullptr;

  MemoryOps() {
    load("cuStreamWriteValue64", write);
    load("cuStreamWaitValue64", wait);
  }
  static void load(const char* name, Function& function) {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
    const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result);
#else
    const cudaError_t error = cudaGetDriverEntryPoint(name, &found, cudaEnableDefault, &result);
#endif
    if (error == cudaSuccess && result == cudaDriverEntryPointSuccess)
      function = reinterpret_cast<Function>(found);
    else
      cudaGetLastError();
  }
};

const MemoryOps& memory_ops() {
  static const MemoryOps ops;
  return ops;
}

// The address by which kernels know a flag.
cudaError_t device_address(const uint64_t* flag, uint64_t** out) {
  void* p = nullptr;
  const cudaError_t result = cudaHostGetDevicePointer(&p, const_cast<uint64_t*>(flag), 0);
  *out = static_cast<uint64_t*>(p);
  return result;
}

}  // namespace

kvasir_status kvasir_stream::create(kvasir_device& device, kvasir_stream** out, kvasir_error* err) {
  *out = nullptr;
  if (const kvasir_status status = device.enter(err); status != KVASIR_OK) return status;
  auto* stream = new (std::nothrow) kvasir_stream(device);
  if (stream == nullptr) return fail(err, KVASIR_OUT_OF_MEMORY, "The host has no memory left for a stream.");
  const kvasir_status status =
      device.check(cudaStreamCreateWithFlags(&stream->handle_, cudaStreamNonBlocking), "the creation of a stream", err);
  if (status != KVASIR_OK) {
    stream->handle_ = nullptr;
    delete stream;
    return status;
  }
  device.watcher().add(stream);
  *out = stream;
  return KVASIR_OK;
}

kvasir_stream::~kvasir_stream() {
  if (handle_ == nullptr) return;
  cudaSetDevice(device_.ordinal());
  device_.watcher().remove(this);
  if (recording_) {
    cudaGraph_t graph = nullptr;
    if (cudaStreamEndCapture(handle_, &graph) == cudaSuccess) cudaGraphDestroy(graph);
  }
  device_.check(cudaStreamSynchronize(handle_), "earlier work", nullptr);
  for (const cudaEvent_t event : stamps_) {
    if (event != nullptr) cudaEventDestroy(event);
  }
  device_.check(cudaStreamDestroy(handle_), "the end of a stream", nullptr);
  if (staging_ != nullptr) device_.stagings().give_back(staging_);
  mailbox_.give_back(device_.mailboxes());
  recording_mailbox_.give_back(device_.mailboxes());
}

kvasir_status kvasir_stream::refuse_in_recording(const char* what, kvasir_error* err) const {
  if (!recording_) return KVASIR_OK;
  return fail(err, KVASIR_UNSUPPORTED, "%s cannot be part of a program; do it before or after the recording.", what);
}

kvasir_status kvasir_stream::mailbox(size_t bytes, void** out, kvasir_error* err) {
  kvasir::cuda::Mailbox& mailbox = recording_ ? recording_mailbox_ : mailbox_;
  return device_.check(mailbox.at_least(bytes, device_.mailboxes(), out), "a mailbox between the parts of a kernel", err);
}

kvasir_status kvasir_stream::status(kvasir_error* err) {
  if (const kvasir_status entered = device_.enter(err); entered != KVASIR_OK) return entered;
  const cudaError_t result = cudaStreamQuery(handle_);
  if (result == cudaErrorNotReady) {
    cudaGetLastError();
    return KVASIR_OK;
  }
  return device_.check(result, "earlier work", err);
}

kvasir_status kvasir_stream::synchronize(kvasir_error* err) {
  if (const kvasir_status status = device_.enter(err); status != KVASIR_OK) return status;
  return device_.check(cudaStreamSynchronize(handle_), "earlier work", err);
}

kvasir_status kvasir_stream::callback(void (*fn)(void*, kvasir_status, const char*), void* user, kvasir_error* err) {
  if (const kvasir_status status = device_.enter(err); status != KVASIR_OK) return status;
  if (const kvasir_status status = refuse_in_recording("A callback", err); status != KVASIR_OK) return status;
  return device_.watcher().call_back(handle_, fn, user, err);
}

// A copy that the engine does by itself. One call must not cross the border of two registrations of host memory.
kvasir_status kvasir_stream::copy_direct(void* dst, const void* src, const void* host, size_t bytes, const char* doing,
                                         kvasir_error* err) {
  for (size_t at = 0; at < bytes;) {
    const size_t pinned = kvasir::cuda::pinned_piece(static_cast<const char*>(host) + at, bytes - at);
    const size_t piece = pinned == 0 ? bytes - at : pinned;
    const cudaError_t result =
        cudaMemcpyAsync(static_cast<char*>(dst) + at, static_cast<const char*>(src) + at, piece, cudaMemcpyDefault, handle_);
    if (result != cudaSuccess) return device_.check(result, doing, err);
    at += piece;
  }
  return KVASIR_OK;
}

kvasir_status kvasir_stream::refuse_pageable(const char* what, kvasir_error* err) const {
  if (!recording_) return KVASIR_OK;
  return fail(err, KVASIR_UNSUPPORTED,
              "%s that is not pinned cannot be part of a program; allocate it with allocateHostTensor(cpu, dtype, shape, "
              "{ pinnedFor: device }), or copy before or after the recording.",
              what);
}

kvasir_status kvasir_stream::store(void* dst, const void* source, size_t bytes, const char* doing, kvasir_error* err) {
  for (size_t at = 0; at < bytes; at += kvasir::cuda::kStoreBytes) {
    const size_t piece = std::min(kvasir::cuda::kStoreBytes, bytes - at);
    const cudaError_t result =
        kvasir::cuda::launch_store(handle_, static_cast<char*>(dst) + at, static_cast<const char*>(source) + at, piece);
    if (result != cudaSuccess) return device_.check(result, doing, err);
  }
  return KVASIR_OK;
}

kvasir_status kvasir_stream::staging(kvasir_error* err) {
  if (staging_ != nullptr) return KVASIR_OK;
  return device_.check(device_.stagings().take(&staging_), "a stream's staging memory", err);
}

// Pageable memory goes through one staging buffer: host functions fill and empty it in the order of the stream, so that neither
// the caller waits nor two pieces meet.
kvasir_status kvasir_stream::copy_in(void* dst, const void* host_src, size_t bytes, bool settled, kvasir_error* err) {
  if (const kvasir_status status = device_.enter(err); status != KVASIR_OK) return status;
  if (bytes == 0) return KVASIR_OK;
  constexpr const char* kDoing = "a copy from the host";
  if (is_direct(host_src, bytes)) return copy_direct(dst, host_src, host_src, bytes, kDoing, err);
  if (const kvasir_status status = refuse_pageable("A copy from host memory", err); status != KVASIR_OK) return status;
  if (settled && bytes <= kMostStored) return store(dst, host_src, bytes, kDoing, err);
  if (const kvasir_status status = staging(err); status != KVASIR_OK) return status;
  for (size_t at = 0; at < bytes; at += kStagingBytes) {
    const size_t piece = std::min(kStagingBytes, bytes - at);
    cudaError_t result = launch_host_copy(handle_, device_.watcher(), staging_, static_cast<const char*>(host_src) + at, piece);
    if (result == cudaSuccess)
      result = cudaMemcpyAsync(static_cast<char*>(dst) + at, staging_, piece, cudaMemcpyHostToDevice, handle_);
    if (result != cudaSuccess) return device_.check(result, kDoing, err);
  }
  return KVASIR_OK;
}

kvasir_status kvasir_stream::copy_out(void* host_dst, const void* src, size_t bytes, kvasir_error* err) {
  if (const kvasir_status status = device_.enter(err); status != KVASIR_OK) return status;
  if (bytes == 0) return KVASIR_OK;
  constexpr const char* kDoing = "a copy to the host";
  if (is_direct(host_dst, bytes)) return copy_direct(host_dst, src, host_dst, bytes, kDoing, err);
  if (const kvasir_status status = refuse_pageable("A copy to host memory", err); status != KVASIR_OK) return status;
  if (const kvasir_status status = staging(err); status != KVASIR_OK) return status;
  for (size_t at = 0; at < bytes; at += kStagingBytes) {
    const size_t piece = std::min(kStagingBytes, bytes - at);
    cudaError_t result = cudaMemcpyAsync(staging_, static_cast<const char*>(src) + at, piece, cudaMemcpyDeviceToHost, handle_);
    if (result == cudaSuccess)
      result = launch_host_copy(handle_, device_.watcher(), static_cast<char*>(host_dst) + at, staging_, piece);
    if (result != cudaSuccess) return device_.check(result, kDoing, err);
  }
  return KVASIR_OK;
}

kvasir_status kvasir_stream::flag_write(uint64_t* flag, uint64_t value, const uint64_t* base, kvasir_error* err) {
  if (const kvasir_status status = device_.enter(err); status != KVASIR_OK) return status;
  uint64_t *to = nullptr, *from = nullptr;
  cudaError_t result = device_address(flag, &to);
  if (result == cudaSuccess && base != nullptr) result = device_address(base, &from);
  if (result != cudaSuccess) return device_.check(result, "the look-up of a flag", err);
  if (base == nullptr && !recording_ && memory_ops().write != nullptr &&
      memory_ops().write(handle_, reinterpret_cast<CUdeviceptr>(to), value, CU_STREAM_WRITE_VALUE_DEFAULT) == CUDA_SUCCESS) {
    return KVASIR_OK;
  }
  return device_.check(kvasir::cuda::launch_flag_write(handle_, to, value, from), "the write of a flag", err);
}

kvasir_status kvasir_stream::flag_wait(const uint64_t* flag, uint64_t value, const uint64_t* base, kvasir_error* err) {
  if (const kvasir_status status = device_.enter(err); status != KVASIR_OK) return status;
  uint64_t *on = nullptr, *from = nullptr;
  cudaError_t result = device_address(flag, &on);
  if (result == cudaSuccess && base != nullptr) result = device_address(base, &from);
  if (result != cudaSuccess) return device_.check(result, "the look-up of a flag", err);
  if (base == nullptr && !recording_ && memory_ops().wait != nullptr &&
      memory_ops().wait(handle_, reinterpret_cast<CUdeviceptr>(on), value, CU_STREAM_WAIT_VALUE_GEQ) == CUDA_SUCCESS) {
    return KVASIR_OK;
  }
  return device_.check(kvasir::cuda::launch_flag_wait(handle_, on, value, from), "the wait for a flag", err);
}

kvasir_status kvasir_stream::record_begin(kvasir_error* err) {
  if (const kvasir_status status = device_.enter(err); status != KVASIR_OK) return status;
  if (recording_) return fail(err, KVASIR_INVALID_ARGUMENT, "The stream is recording a program already; end that one first.");
  const cudaError_t result = device_.watcher().while_unwatched([this] {
    const cudaError_t begun = cudaStreamBeginCapture(handle_, cudaStreamCaptureModeRelaxed);
    recording_ = begun == cudaSuccess;
    return begun;
  });
  return device_.check(result, "the start of a recording", err);
}

kvasir_status kvasir_stream::record_end(kvasir_program** out, kvasir_error* err) {
  *out = nullptr;
  if (!recording_) return fail(err, KVASIR_INVALID_ARGUMENT, "The stream is not recording a program; begin one first.");
  cudaSetDevice(device_.ordinal());
  cudaGraph_t graph = nullptr;
  const cudaError_t captured = device_.watcher().while_unwatched([&] {
    const cudaError_t ended = cudaStreamEndCapture(handle_, &graph);
    recording_ = false;
    return ended;
  });
  if (captured != cudaSuccess) return device_.check(captured, "the recording of a program", err);
  auto* program = new (std::nothrow) kvasir_program{&device_};
  cudaError_t result = program == nullptr ? cudaErrorMemoryAllocation : cudaGraphInstantiate(&program->graph, graph, 0);
  cudaGraphDestroy(graph);
  if (result == cudaSuccess) {
    result = cudaEventCreateWithFlags(&program->launched, cudaEventDisableTiming);
    if (result != cudaSuccess) cudaGraphExecDestroy(program->graph);
  }
  if (result != cudaSuccess) {
    delete program;
    return device_.check(result, "the instantiation of a program", err);
  }
  program->mailbox = std::exchange(recording_mailbox_, {});
  *out = program;
  return KVASIR_OK;
}

kvasir_status kvasir_stream::launch(kvasir_program& program, kvasir_error* err) {
  if (const kvasir_status status = device_.enter(err); status != KVASIR_OK) return status;
  if (const kvasir_status status = refuse_in_recording("A launch", err); status != KVASIR_OK) return status;
  if (const cudaError_t result = cudaGraphLaunch(program.graph, handle_); result != cudaSuccess) {
    return device_.check(result, "the launch of a program", err);
  }
  return device_.check(cudaEventRecord(program.launched, handle_), "the launch of a program", err);
}

kvasir_status kvasir_stream::stamp(int32_t slot, kvasir_error* err) {
  if (const kvasir_status status = device_.enter(err); status != KVASIR_OK) return status;
  if (slot < 0 || slot >= KVASIR_STAMP_SLOTS) {
    return fail(err, KVASIR_INVALID_ARGUMENT, "Stamp slot %d is outside 0..%d.", slot, KVASIR_STAMP_SLOTS - 1);
  }
  cudaEvent_t& event = stamps_[static_cast<size_t>(slot)];
  cudaError_t result = event == nullptr ? cudaEventCreate(&event) : cudaSuccess;
  // Inside a recording the event is stamped by every launch, as if outside of it.
  if (result == cudaSuccess)
    result = cudaEventRecordWithFlags(event, handle_, recording_ ? cudaEventRecordExternal : cudaEventRecordDefault);
  if (result == cudaSuccess) stamped_[static_cast<size_t>(slot)] = true;
  return device_.check(result, "a time stamp", err);
}

kvasir_status kvasir_stream::elapsed_us(int32_t from, int32_t to, double* out, kvasir_error* err) {
  if (const kvasir_status status = device_.enter(err); status != KVASIR_OK) return status;
  for (const int32_t slot : {from, to}) {
    if (slot < 0 || slot >= KVASIR_STAMP_SLOTS) {
      return fail(err, KVASIR_INVALID_ARGUMENT, "Stamp slot %d is outside 0..%d.", slot, KVASIR_STAMP_SLOTS - 1);
    }
    const cudaError_t passed =
        stamped_[static_cast<size_t>(slot)] ? cudaEventQuery(stamps_[static_cast<size_t>(slot)]) : cudaErrorNotReady;
    if (passed == cudaErrorNotReady) {
      cudaGetLastError();
      return fail(err, KVASIR_INVALID_ARGUMENT, "The stream has not passed a stamp of slot %d yet; wait until it has finished.",
                  slot);
    }
    if (passed != cudaSuccess) return device_.check(passed, "earlier work", err);
  }
  float milliseconds = 0;
  const cudaError_t result =
      cudaEventElapsedTime(&milliseconds, stamps_[static_cast<size_t>(from)], stamps_[static_cast<size_t>(to)]);
  *out = static_cast<double>(milliseconds) * 1000.0;
  return device_.check(result, "the reading of time stamps", err);
}
