#include "host_kernels.h"

#include <cstring>

namespace kvasir::cuda {

namespace {

__device__ uint64_t load_acquire(const uint64_t* p) {
  uint64_t value;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(p) : "memory");
  return value;
}

__global__ void flag_write_kernel(uint64_t* flag, uint64_t value, const uint64_t* base) {
  if (base != nullptr) value += load_acquire(base);
  __threadfence_system();
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(flag), "l"(value) : "memory");
}

__global__ void flag_wait_kernel(const uint64_t* flag, uint64_t value, const uint64_t* base) {
  if (base != nullptr) value += load_acquire(base);
  while (load_acquire(flag) < value) __nanosleep(200);
}

struct Payload {
  uint32_t words[kStoreBytes / 4];
};

__global__ void store_kernel(char* dst, const __grid_constant__ Payload payload, int bytes) {
  const bool aligned = (reinterpret_cast<uintptr_t>(dst) & 3) == 0;
  const int words = aligned ? bytes / 4 : 0;
  for (int i = threadIdx.x; i < words; i += blockDim.x) reinterpret_cast<uint32_t*>(dst)[i] = payload.words[i];
  for (int i = words * 4 + threadIdx.x; i < bytes; i += blockDim.x)
    dst[i] = static_cast<char>(payload.words[i / 4] >> (i % 4 * 8));
}

}  // namespace

cudaError_t launch_flag_write(cudaStream_t stream, uint64_t* flag, uint64_t value, const uint64_t* base) {
  flag_write_kernel<<<1, 1, 0, stream>>>(flag, value, base);
  return cudaGetLastError();
}

cudaError_t launch_flag_wait(cudaStream_t stream, const uint64_t* flag, uint64_t value, const uint64_t* base) {
  flag_wait_kernel<<<1, 1, 0, stream>>>(flag, value, base);
  return cudaGetLastError();
}

cudaError_t launch_store(cudaStream_t stream, void* dst, const void* source, size_t bytes) {
  Payload payload;
  memcpy(payload.words, source, bytes);
  store_kernel<<<1, 256, 0, stream>>>(static_cast<char*>(dst), payload, static_cast<int>(bytes));
  return cudaGetLastError();
}

}  // namespace kvasir::cuda
