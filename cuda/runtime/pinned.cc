#include "pinned.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>

namespace kvasir::cuda {

namespace {

struct Ranges {
  std::mutex lock;
  std::map<uintptr_t, size_t> bytes_at;
};

// Never destroyed: streams of other threads may ask while the process exits.
Ranges& ranges() {
  static Ranges* const all = new Ranges;
  return *all;
}

void remember(void* p, size_t bytes) {
  const std::lock_guard guard(ranges().lock);
  ranges().bytes_at[reinterpret_cast<uintptr_t>(p)] = bytes;
}

void forget(void* p) {
  const std::lock_guard guard(ranges().lock);
  ranges().bytes_at.erase(reinterpret_cast<uintptr_t>(p));
}

}  // namespace

kvasir_status host_alloc(kvasir_device& device, size_t bytes, void** out, kvasir_error* err) {
  *out = nullptr;
  if (const kvasir_status status = device.enter(err); status != KVASIR_OK) return status;
  const cudaError_t result = cudaHostAlloc(out, bytes, cudaHostAllocPortable | cudaHostAllocMapped);
  if (result == cudaSuccess) remember(*out, bytes);
  return device.check(result, "the allocation of pinned host memory", err);
}

void host_free(kvasir_device& device, void* p) {
  if (p == nullptr) return;
  forget(p);
  cudaSetDevice(device.ordinal());
  device.check(cudaFreeHost(p), "the release of pinned host memory", nullptr);
}

kvasir_status host_register(kvasir_device& device, void* p, size_t bytes, kvasir_error* err) {
  if (const kvasir_status status = device.enter(err); status != KVASIR_OK) return status;
  const cudaError_t result = cudaHostRegister(p, bytes, cudaHostRegisterPortable | cudaHostRegisterMapped);
  if (result == cudaSuccess) remember(p, bytes);
  return device.check(result, "the pinning of host memory", err);
}

void host_unregister(kvasir_device& device, void* p) {
  forget(p);
  cudaSetDevice(device.ordinal());
  device.check(cudaHostUnregister(p), "the release of pinned host memory", nullptr);
}

size_t pinned_piece(const void* p, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(p);
  const std::lock_guard guard(ranges().lock);
  auto range = ranges().bytes_at.upper_bound(begin);
  if (range == ranges().bytes_at.begin()) return 0;
  --range;
  const uintptr_t end = range->first + range->second;
  return begin >= end ? 0 : std::min<size_t>(bytes, end - begin);
}

bool is_pinned(const void* p, size_t bytes) {
  const char* at = static_cast<const char*>(p);
  do {
    const size_t piece = pinned_piece(at, bytes);
    if (piece == 0) return false;
    at += piece;
    bytes -= piece;
  } while (bytes > 0);
  return true;
}

}  // namespace kvasir::cuda
