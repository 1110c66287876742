// Reads x once with every multiprocessor: the read-bandwidth ceiling. out [1] i32 = xor of the 32-bit words of x.
#include "../common/check.h"
#include "../common/convert.cuh"
#include "../ops.h"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 512, kLoads = 8;  // independent 16-byte loads in flight per thread

__device__ __forceinline__ uint4 load_once(const uint4* p) { return __ldcs(p); }

__global__ void __launch_bounds__(kThreads) probe_read_kernel(const char* x, int64_t bytes, int* out) {
  const int64_t head = min(bytes, static_cast<int64_t>(-reinterpret_cast<intptr_t>(x) & 15)), vectors = (bytes - head) / 16;
  const uint4* body = reinterpret_cast<const uint4*>(x + head);
  uint32_t folded = 0;
  const int64_t span = static_cast<int64_t>(kThreads) * kLoads;
  for (int64_t begin = blockIdx.x * span; begin < vectors; begin += gridDim.x * span) {
    uint4 v[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int64_t at = begin + i * kThreads + threadIdx.x;
      v[i] = at < vectors ? load_once(body + at) : uint4{};
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) folded ^= v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
  }
  if (blockIdx.x == 0) {  // what the vectors leave at both ends: at most three words each
    const uint32_t* words = reinterpret_cast<const uint32_t*>(x);
    const int64_t all = bytes / 4, front = head / 4, back = front + vectors * 4;
    if (threadIdx.x < front) folded ^= words[threadIdx.x];
    if (back + threadIdx.x < all) folded ^= words[back + threadIdx.x];
  }
  folded = __reduce_xor_sync(0xffffffffu, folded);
  if (threadIdx.x % 32 == 0) atomicXor(out, static_cast<int>(folded));
}

}  // namespace

kvasir_status launch_probe_read(kvasir_stream* stream, const kvasir_probe_read_args& args, void*, size_t, kvasir_error* err) {
  int64_t bytes = dtype_bytes(args.x.dtype);
  for (int i = 0; i < args.x.rank; ++i) bytes *= args.x.shape[i];
  const cudaError_t cleared = cudaMemsetAsync(args.out.data, 0, sizeof(int), stream->handle());
  if (cleared != cudaSuccess || bytes == 0) return checked(stream, cleared, "probe_read", err);
  const int64_t needed = (bytes / 16 + kThreads * kLoads - 1) / (kThreads * kLoads),
                most = stream->device().limits().sm_count * 4;
  probe_read_kernel<<<static_cast<unsigned>(max(int64_t{1}, min(needed, most))), kThreads, 0, stream->handle()>>>(
      static_cast<const char*>(args.x.data), bytes, static_cast<int*>(args.out.data));
  return launched(stream, "probe_read", err);
}

}  // namespace kvasir::cuda
