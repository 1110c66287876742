// Does a large stride between pages cost a decode kernel bandwidth (address translation)? Split-KV attention reads, for one
// layer, a slice of every page of a request: slices of 32 KB to 2 MB at a stride of 8 MB, in any order. Here a kernel of the same
// access pattern (CTAs that each walk runs of slices, 16 bytes a thread, many loads in flight) reads such slices across most of
// the device's memory, against contiguous reads of as many bytes, and against slices packed at their own size in the same
// shuffled order.
//
//   nvcc -std=c++20 -O3 -gencode=arch=compute_90a,code=sm_90a bench/native/page_stride.cu -o page_stride && ./page_stride
//   [gigabytes]
//
// Prints one JSON line per pattern; medians over 30 rounds by CUDA events; `pass`: both orders of the same slices gave the same
// sum.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

namespace {

constexpr int kThreads = 256, kLoads = 8, kRounds = 30;
constexpr int64_t kStride = int64_t{8} << 20;

void check(cudaError_t result, const char* doing) {
  if (result == cudaSuccess) return;
  fprintf(stderr, "%s: %s\n", doing, cudaGetErrorString(result));
  exit(1);
}

__global__ void fill_kernel(uint32_t* data, int64_t words) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < words;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    data[i] = static_cast<uint32_t>(i * 2654435761u >> 7);
  }
}

// Each CTA reads slices [begin, end) of the table: equal runs, as a split of a long request does.
__global__ void __launch_bounds__(kThreads)
    read_kernel(const char* arena, const int64_t* offsets, int slices, int slice_bytes, unsigned long long* sum) {
  const int begin = static_cast<int>(static_cast<int64_t>(slices) * blockIdx.x / gridDim.x);
  const int end = static_cast<int>(static_cast<int64_t>(slices) * (blockIdx.x + 1) / gridDim.x);
  uint32_t folded = 0;
  for (int s = begin; s < end; ++s) {
    const uint4* slice = reinterpret_cast<const uint4*>(arena + offsets[s]);
    for (int i = threadIdx.x; i < slice_bytes / 16; i += kThreads * kLoads) {
      uint4 v[kLoads];
#pragma unroll
      for (int j = 0; j < kLoads; ++j) v[j] = __ldcs(slice + i + j * kThreads);
#pragma unroll
      for (int j = 0; j < kLoads; ++j) folded += v[j].x + v[j].y + v[j].z + v[j].w;
    }
  }
  folded = __reduce_add_sync(0xffffffffu, folded);
  if (threadIdx.x % 32 == 0) atomicAdd(sum, static_cast<unsigned long long>(folded));
}

struct Result {
  double median, p5, p95;
  unsigned long long sum;
};

// `sets` holds several tables over different bytes, taken in turn, so that no round finds its data in L2.
Result measure(const char* arena, const std::vector<std::vector<int64_t>>& sets, int slice_bytes, int ctas) {
  const int slices = static_cast<int>(sets[0].size());
  std::vector<int64_t*> tables;
  for (const auto& set : sets) {
    int64_t* table = nullptr;
    check(cudaMalloc(&table, set.size() * sizeof(int64_t)), "cudaMalloc");
    check(cudaMemcpy(table, set.data(), set.size() * sizeof(int64_t), cudaMemcpyHostToDevice), "cudaMemcpy");
    tables.push_back(table);
  }
  unsigned long long* sum = nullptr;
  check(cudaMalloc(&sum, sizeof *sum), "cudaMalloc");
  check(cudaMemset(sum, 0, sizeof *sum), "cudaMemset");
  cudaEvent_t from, to;
  check(cudaEventCreate(&from), "cudaEventCreate");
  check(cudaEventCreate(&to), "cudaEventCreate");
  std::vector<double> times;
  for (int round = -3; round < kRounds; ++round) {
    check(cudaEventRecord(from), "cudaEventRecord");
    read_kernel<<<ctas, kThreads>>>(arena, tables[static_cast<size_t>(round + 3) % tables.size()], slices, slice_bytes, sum);
    check(cudaEventRecord(to), "cudaEventRecord");
    check(cudaEventSynchronize(to), "read_kernel");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, from, to), "cudaEventElapsedTime");
    if (round >= 0) times.push_back(milliseconds * 1000.0);
  }
  std::sort(times.begin(), times.end());
  Result result{times[kRounds / 2], times[kRounds / 20], times[kRounds - 1 - kRounds / 20], 0};
  check(cudaMemcpy(&result.sum, sum, sizeof result.sum, cudaMemcpyDeviceToHost), "cudaMemcpy");
  for (int64_t* table : tables) cudaFree(table);
  cudaFree(sum);
  cudaEventDestroy(from);
  cudaEventDestroy(to);
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t pages = (argc > 1 ? atoll(argv[1]) : 60) * (int64_t{1} << 30) / kStride, arena_bytes = pages * kStride;
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  char* arena = nullptr;
  check(cudaMalloc(&arena, static_cast<size_t>(arena_bytes)), "cudaMalloc");
  fill_kernel<<<properties.multiProcessorCount * 8, 256>>>(reinterpret_cast<uint32_t*>(arena), arena_bytes / 4);
  check(cudaDeviceSynchronize(), "fill_kernel");
  const int ctas = properties.multiProcessorCount * 4;
  std::mt19937 generator(7);

  for (const int kilobytes : {32, 64, 256, 512, 1024, 2048}) {
    const int slice = kilobytes << 10;
    const int64_t layers = std::min<int64_t>(kStride / slice, 8);  // tables of other bytes of the same pages, read in turn
    const char* patterns[] = {"contiguous", "packed_shuffled", "stride_8mb_in_order", "stride_8mb_shuffled"};
    double contiguous = 0;
    uint32_t in_order = 0;
    for (int pattern = 0; pattern < 4; ++pattern) {
      std::vector<std::vector<int64_t>> sets;
      for (int64_t layer = 0; layer < layers; ++layer) {
        std::vector<int64_t> set(static_cast<size_t>(pages));
        std::iota(set.begin(), set.end(), int64_t{0});
        if (pattern % 2 == 1) std::shuffle(set.begin(), set.end(), generator);
        // Slices of one layer: side by side in a region of their own, or one in every page.
        for (int64_t& offset : set) offset = pattern < 2 ? (layer * pages + offset) * slice : offset * kStride + layer * slice;
        sets.push_back(set);
      }
      const Result r = measure(arena, sets, slice, ctas);
      const double bytes = static_cast<double>(pages) * slice, rate = bytes / r.median / 1000;
      if (pattern == 0) contiguous = rate;
      // Both orders read the same bytes; partial sums wrap at 32 bits, so only those of the total mean something.
      if (pattern % 2 == 0) in_order = static_cast<uint32_t>(r.sum);
      const bool same = static_cast<uint32_t>(r.sum) == in_order;
      printf(
          "{\"op\":\"page_stride\",\"variant\":\"%s\",\"slice_bytes\":%d,\"stride_bytes\":%lld,\"pages\":%lld,\"arena_bytes\":%"
          "lld,\"samples\":%d,"
          "\"median_us\":%.2f,\"p5_us\":%.2f,\"p95_us\":%.2f,\"gb_per_s\":%.1f,\"share_of_contiguous\":%.4f,\"pass\":%s}\n",
          patterns[pattern], slice, static_cast<long long>(pattern < 2 ? slice : kStride), static_cast<long long>(pages),
          static_cast<long long>(arena_bytes), kRounds, r.median, r.p5, r.p95, rate, rate / contiguous, same ? "true" : "false");
    }
  }
  check(cudaFree(arena), "cudaFree");
  return 0;
}
