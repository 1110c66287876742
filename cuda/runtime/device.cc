#include "device.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "../../native/core/status.h"
#include "blas.h"
#include "kernels.h"
#include "mailbox.h"
#include "probe.h"
#include "staging.h"
#include "watcher.h"

using kvasir::fail;

namespace {

// Errors after which a context answers every call with the same error.
bool is_sticky(cudaError_t error) {
  switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorDeviceUninitialized:
    case cudaErrorContextIsDestroyed:
    case cudaErrorCudartUnloading:
    case cudaErrorUnknown: return true;
    default: return false;
  }
}

}  // namespace

kvasir_device::kvasir_device() = default;

kvasir_device::~kvasir_device() {
  cudaSetDevice(ordinal_);
  watcher_.reset();
  blas_.reset();
  stagings_.reset();
  for (const auto& [data, bytes] : allocations_) check(cudaFree(data), "the release of device memory", nullptr);
}

kvasir_status kvasir_device::open(const kvasir_device_options& options, kvasir_device** out, kvasir_error* err) {
  *out = nullptr;
  int ordinal = 0;
  if (const kvasir_status status = kvasir::cuda::usable_ordinal(options.index, &ordinal, err); status != KVASIR_OK) return status;
  auto* device = new (std::nothrow) kvasir_device;
  if (device == nullptr) return fail(err, KVASIR_OUT_OF_MEMORY, "The host has no memory left to open a device.");
  device->ordinal_ = ordinal;
  device->memory_limit_ = options.memory_limit;

  cudaDeviceProp properties{};
  cudaError_t result = cudaSetDevice(ordinal);
  if (result == cudaSuccess) result = cudaFree(nullptr);  // creates the context; a failed one reports its error here
  if (result == cudaSuccess) result = cudaGetDeviceProperties(&properties, ordinal);
  if (result != cudaSuccess) {
    cudaGetLastError();
    delete device;
    return fail(err, KVASIR_UNAVAILABLE, "CUDA device %d cannot be opened: %s (%s).", ordinal, cudaGetErrorString(result),
                cudaGetErrorName(result));
  }
  kvasir::cuda::Limits& limits = device->limits_;
  limits.sm_count = properties.multiProcessorCount;
  limits.cc_major = properties.major;
  limits.cc_minor = properties.minor;
  limits.smem_per_sm = static_cast<int>(properties.sharedMemPerMultiprocessor);
  limits.smem_per_cta = static_cast<int>(properties.sharedMemPerBlockOptin);
  limits.l2_bytes = properties.l2CacheSize;
  limits.total_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  snprintf(limits.name, sizeof limits.name, "%.127s", properties.name);

  kvasir_status status = device->check(kvasir::cuda::probe_code(), "the look for kernels of this device", err);
  if (status == KVASIR_OK) status = device->check(kvasir::cuda::load_kernels(), "the loading of kernels", err);
  if (status != KVASIR_OK) {
    delete device;
    return status;
  }
  device->mailboxes_ = std::make_unique<kvasir::cuda::MailboxPool>();
  device->stagings_ = std::make_unique<kvasir::cuda::StagingPool>();
  device->blas_ = std::make_unique<kvasir::cuda::Blas>(*device);
  device->watcher_ = std::make_unique<kvasir::cuda::Watcher>(*device);
  *out = device;
  return KVASIR_OK;
}

kvasir_status kvasir_device::lost_status(kvasir_error* err) {
  const std::lock_guard guard(lock_);
  return fail(err, KVASIR_DEVICE_LOST, "%s", first_error_.text[0] != '\0' ? first_error_.text : "The device was closed.");
}

void kvasir_device::lose(cudaError_t error, const char* doing) {
  const std::lock_guard guard(lock_);
  if (first_error_.text[0] != '\0') return;
  snprintf(first_error_.text, sizeof first_error_.text,
           "%.100s is lost: %.100s ended in %.150s (%.80s); the process must be restarted to use it again.", limits_.name, doing,
           cudaGetErrorString(error), cudaGetErrorName(error));
  lost_.store(true);
}

kvasir_status kvasir_device::check(cudaError_t error, const char* doing, kvasir_error* err) {
  if (error == cudaSuccess) return KVASIR_OK;
  cudaGetLastError();
  if (is_sticky(error)) lose(error, doing);
  if (lost()) return lost_status(err);
  if (error == cudaErrorMemoryAllocation) {
    return fail(err, KVASIR_OUT_OF_MEMORY, "%s has no memory left for %s.", limits_.name, doing);
  }
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction ||
      error == cudaErrorUnsupportedPtxVersion) {
    return fail(
        err, KVASIR_UNAVAILABLE,
        "%s is of compute capability %d.%d, and this build carries code for %s only; rebuild with KVASIR_CUDA_ARCHS=%d%d.",
        limits_.name, limits_.cc_major, limits_.cc_minor, kvasir::cuda::compiled_architectures(), limits_.cc_major,
        limits_.cc_minor);
  }
  return fail(err, KVASIR_INTERNAL, "On %s, %s failed: %s (%s).", limits_.name, doing, cudaGetErrorString(error),
              cudaGetErrorName(error));
}

kvasir_status kvasir_device::enter(kvasir_error* err) {
  if (lost()) return lost_status(err);
  return check(cudaSetDevice(ordinal_), "the choice of the device", err);
}

kvasir_status kvasir_device::status(kvasir_error* err) {
  if (const kvasir_status entered = enter(err); entered != KVASIR_OK) return entered;
  watcher_->poll();
  return lost() ? lost_status(err) : KVASIR_OK;
}

kvasir_status kvasir_device::alloc(size_t bytes, void** out, kvasir_error* err) {
  *out = nullptr;
  if (const kvasir_status entered = enter(err); entered != KVASIR_OK) return entered;
  const auto size = static_cast<int64_t>(bytes);
  {
    const std::lock_guard guard(lock_);
    if (memory_limit_ > 0 && (size < 0 || size > memory_limit_ - allocated_)) {
      return fail(
          err, KVASIR_OUT_OF_MEMORY, "%lld bytes on %s would pass the memory limit of %lld bytes, of which %lld are in use.",
          static_cast<long long>(bytes), limits_.name, static_cast<long long>(memory_limit_), static_cast<long long>(allocated_));
    }
  }
  const kvasir_status status = check(cudaMalloc(out, bytes), "an allocation of device memory", err);
  if (status != KVASIR_OK) return status;
  const std::lock_guard guard(lock_);
  allocations_[*out] = bytes;
  allocated_ += size;
  return KVASIR_OK;
}

void kvasir_device::free(void* data) {
  if (data == nullptr) return;
  {
    const std::lock_guard guard(lock_);
    const auto found = allocations_.find(data);
    if (found == allocations_.end()) return;
    allocated_ -= static_cast<int64_t>(found->second);
    allocations_.erase(found);
  }
  cudaSetDevice(ordinal_);
  check(cudaFree(data), "the release of device memory", nullptr);
}
