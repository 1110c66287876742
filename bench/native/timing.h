// Timing helpers of the standalone drivers: random buffers, medians of events, and graphs timed over their nodes.
#pragma once
#include <cuda_bf16.h>

#include <cmath>
#include <functional>

#include "attention_driver.h"

namespace kvasir::bench {

static __global__ void fill_random(__nv_bfloat16* x, size_t n, uint32_t seed) {
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n;
       i += static_cast<size_t>(gridDim.x) * blockDim.x) {
    uint32_t h = static_cast<uint32_t>(i) * 2654435761u + seed;
    float sum = 0;
    for (int r = 0; r < 4; ++r) {
      h ^= h >> 16, h *= 0x7feb352du, h ^= h >> 15, h *= 0x846ca68bu, h ^= h >> 16;
      sum += static_cast<float>(h) * 0x1p-32f - 0.5f;
    }
    x[i] = __float2bfloat16(sum * 1.732f);
  }
}

inline __nv_bfloat16* random_buffer(size_t n, uint32_t seed) {
  __nv_bfloat16* x;
  check(cudaMalloc(reinterpret_cast<void**>(&x), n * 2), "buffer");
  fill_random<<<1024, 256>>>(x, n, seed);
  return x;
}

// Median microseconds of `repeats` runs, each timed by its own events; `body(i)` picks its buffers by i.
inline double median_us(int repeats, const std::function<void(int)>& body) {
  for (int i = 0; i < 3; ++i) body(i);
  std::vector<cudaEvent_t> events(2 * repeats);
  for (auto& e : events) cudaEventCreate(&e);
  for (int i = 0; i < repeats; ++i) {
    cudaEventRecord(events[2 * i]);
    body(i);
    cudaEventRecord(events[2 * i + 1]);
  }
  check(cudaDeviceSynchronize(), "timing");
  std::vector<float> us(repeats);
  for (int i = 0; i < repeats; ++i) {
    cudaEventElapsedTime(&us[i], events[2 * i], events[2 * i + 1]);
    us[i] *= 1000;
  }
  for (auto& e : events) cudaEventDestroy(e);
  std::sort(us.begin(), us.end());
  return us[repeats / 2];
}

// Median microseconds a node of one graph of `nodes` launches.
inline double graph_us(int nodes, const std::function<void(int, cudaStream_t)>& body) {
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "stream");
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < nodes; ++i) body(i, stream);
  check(cudaStreamEndCapture(stream, &graph), "end capture");
  check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  check(cudaStreamSynchronize(stream), "sync");
  cudaEvent_t a, b;
  cudaEventCreate(&a), cudaEventCreate(&b);
  std::vector<float> us;
  for (int i = 0; i < 33; ++i) {
    cudaEventRecord(a, stream);
    check(cudaGraphLaunch(exec, stream), "launch");
    cudaEventRecord(b, stream);
    check(cudaStreamSynchronize(stream), "sync");
    float ms;
    cudaEventElapsedTime(&ms, a, b);
    if (i >= 3) us.push_back(ms * 1000 / nodes);
  }
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
  std::sort(us.begin(), us.end());
  return us[us.size() / 2];
}

struct Row {
  std::string work, variant;
  double us, rate;  // TFLOP/s or GB/s
};
inline std::vector<Row> table;
inline void report(const std::string& work, const std::string& variant, double us, double rate, const char* unit) {
  std::printf("%-44s %-26s %10.1f us %8.1f %s\n", work.c_str(), variant.c_str(), us, rate, unit);
  table.push_back({work, variant, us, rate});
}

inline double relative_difference(const std::vector<uint16_t>& a, const std::vector<uint16_t>& b) {
  double e = 0, n = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double x = bf16_to_float(a[i]), y = bf16_to_float(b[i]);
    e += (x - y) * (x - y), n += y * y;
  }
  return std::sqrt(e / n);
}

inline void write_table(const char* json) {
  if (json == nullptr) return;
  FILE* file = std::fopen(json, "w");
  std::fprintf(file, "[\n");
  for (size_t i = 0; i < table.size(); ++i) {
    std::fprintf(file, "  {\"work\": \"%s\", \"variant\": \"%s\", \"median_us\": %.2f, \"rate\": %.1f}%s\n",
                 table[i].work.c_str(), table[i].variant.c_str(), table[i].us, table[i].rate, i + 1 < table.size() ? "," : "");
  }
  std::fprintf(file, "]\n");
  std::fclose(file);
}

}  // namespace kvasir::bench
