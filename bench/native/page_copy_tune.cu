// Tries launch parameters of the zero-copy page kernels (cuda/runtime/page_copy.cuh) for every page size in both directions,
// beside the copy engines, and times the pinning of host memory.
//
//   make -f bench/native/Makefile OUT=/tmp/tune /tmp/tune/page_copy_tune && /tmp/tune/page_copy_tune [MiB moved a run, default
//   256]
//
// Prints a table for each size: one large copy, a copy a page, batches, pages gathered by a kernel in HBM (or spread from there)
// with one large copy, the best of either kernel form, and its parameters; then the parameters that do best over all sizes of at
// most 64 KiB. Every variant is checked on some pages.
#include <cuda_runtime.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../../cuda/runtime/page_copy.cuh"

namespace {

using namespace kvasir::cuda;

constexpr size_t kPool = size_t{1} << 30;
constexpr int kRepeats = 3;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  exit(1);
}

struct Pools {
  char *host, *device, *staging;
  cudaStream_t stream;
};

// One list of pages in one direction.
struct Case {
  bool in;
  size_t bytes;
  std::vector<int32_t> to, from;
  double total() const { return static_cast<double>(bytes) * static_cast<double>(to.size()); }
};

std::vector<int32_t> shuffled(size_t rows, size_t count, uint32_t seed) {
  std::vector<int32_t> slots(rows);
  std::iota(slots.begin(), slots.end(), 0);
  std::shuffle(slots.begin(), slots.end(), std::mt19937(seed));
  slots.resize(count);
  return slots;
}

char* to_pool(const Pools& p, const Case& c) { return c.in ? p.device : p.host; }
char* from_pool(const Pools& p, const Case& c) { return c.in ? p.host : p.device; }

double gb_per_s(const Pools& pools, double bytes, const std::function<void()>& body) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  std::vector<float> ms(kRepeats);
  for (int i = -1; i < kRepeats; ++i) {
    check(cudaEventRecord(begin, pools.stream), "record");
    body();
    check(cudaEventRecord(end, pools.stream), "record");
    check(cudaStreamSynchronize(pools.stream), "the copy");
    if (i >= 0) check(cudaEventElapsedTime(&ms[static_cast<size_t>(i)], begin, end), "time");
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(ms.begin(), ms.end());
  return bytes / ms[kRepeats / 2] / 1e6;
}

// Word i of slot `slot` of a pool; `salt` tells the pools apart.
uint32_t pattern(size_t slot, size_t i, uint32_t salt) {
  return static_cast<uint32_t>(slot) * 2654435761u + static_cast<uint32_t>(i) * 40503u + salt;
}

// Marks the heads and tails of some source pages, clears those of their targets, copies, and looks.
bool arrives(const Pools& pools, const Case& c, const std::function<void()>& body) {
  constexpr size_t kWords = 16;
  const size_t last = c.bytes / 4 - kWords;
  uint32_t words[kWords];
  const auto each = [&](const std::function<void(size_t page, size_t word)>& visit) {
    for (size_t page = 0; page < c.to.size(); page += std::max<size_t>(1, c.to.size() / 7)) visit(page, 0), visit(page, last);
  };
  each([&](size_t page, size_t word) {
    for (size_t i = 0; i < kWords; ++i) words[i] = pattern(static_cast<size_t>(c.from[page]), word + i, 7);
    check(cudaMemcpy(from_pool(pools, c) + static_cast<size_t>(c.from[page]) * c.bytes + word * 4, words, sizeof words,
                     cudaMemcpyDefault),
          "a mark");
    memset(words, 0, sizeof words);
    check(cudaMemcpy(to_pool(pools, c) + static_cast<size_t>(c.to[page]) * c.bytes + word * 4, words, sizeof words,
                     cudaMemcpyDefault),
          "a mark");
  });
  body();
  check(cudaStreamSynchronize(pools.stream), "the copy");
  bool right = true;
  each([&](size_t page, size_t word) {
    check(cudaMemcpy(words, to_pool(pools, c) + static_cast<size_t>(c.to[page]) * c.bytes + word * 4, sizeof words,
                     cudaMemcpyDefault),
          "a look");
    for (size_t i = 0; i < kWords; ++i) right = right && words[i] == pattern(static_cast<size_t>(c.from[page]), word + i, 7);
  });
  return right;
}

// ---- the copy engines

void copy_by_dma(const Pools& pools, const Case& c) {
  for (size_t i = 0; i < c.to.size(); ++i) {
    check(
        cudaMemcpyAsync(to_pool(pools, c) + static_cast<size_t>(c.to[i]) * c.bytes,
                        from_pool(pools, c) + static_cast<size_t>(c.from[i]) * c.bytes, c.bytes, cudaMemcpyDefault, pools.stream),
        "a copy");
  }
}

void copy_by_batch(const Pools& pools, const Case& c) {
#if CUDART_VERSION >= 13000
  constexpr size_t kMost = 4096;
  for (size_t first = 0; first < c.to.size(); first += kMost) {
    std::vector<void*> to, from;
    for (size_t i = first; i < std::min(c.to.size(), first + kMost); ++i) {
      to.push_back(to_pool(pools, c) + static_cast<size_t>(c.to[i]) * c.bytes);
      from.push_back(from_pool(pools, c) + static_cast<size_t>(c.from[i]) * c.bytes);
    }
    const std::vector<size_t> bytes(to.size(), c.bytes);
    cudaMemcpyAttributes attributes{};
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    attributes.flags = cudaMemcpyFlagPreferOverlapWithCompute;
    size_t start = 0;
    check(cudaMemcpyBatchAsync(to.data(), const_cast<const void**>(from.data()), bytes.data(), to.size(), &attributes, &start, 1,
                               pools.stream),
          "a batch");
  }
#else
  copy_by_dma(pools, c);
#endif
}

// ---- kernels

struct Parameters {
  bool bulk;
  int ctas;
  int ring, piece, lag;         // bulk: bytes, bytes, stores
  int threads = 0, unroll = 0;  // vector
  std::string text() const {
    char line[96];
    if (bulk)
      snprintf(line, sizeof line, "bulk   ctas %2d ring %3dK piece %2dK lag %d", ctas, ring >> 10, piece >> 10, lag);
    else
      snprintf(line, sizeof line, "vector ctas %2d threads %d unroll %d", ctas, threads, unroll);
    return line;
  }
};

template <int kLag>
void launch_bulk(cudaStream_t stream, const LargePageCopy& launch, const Parameters& p) {
  const auto kernel = bulk_page_copy_kernel<kLag, LargePageCopy>;
  const int piece = static_cast<int>(launch.shape.piece_bytes);
  const int stages = std::min(kMostStages, p.ring / piece);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, p.ring), "shared memory");
  kernel<<<p.ctas, 32, stages * piece, stream>>>(launch, stages);
}

void launch(cudaStream_t stream, const LargePageCopy& launch, const Parameters& p) {
  if (p.bulk) {
    if (p.lag == 1) launch_bulk<1>(stream, launch, p);
    if (p.lag == 2) launch_bulk<2>(stream, launch, p);
    if (p.lag == 4) launch_bulk<4>(stream, launch, p);
  } else {
    if (p.unroll == 4) vector_page_copy_kernel<uint4, 4><<<p.ctas, p.threads, 0, stream>>>(launch);
    if (p.unroll == 8) vector_page_copy_kernel<uint4, 8><<<p.ctas, p.threads, 0, stream>>>(launch);
    if (p.unroll == 16) vector_page_copy_kernel<uint4, 16><<<p.ctas, p.threads, 0, stream>>>(launch);
  }
  check(cudaGetLastError(), "a launch");
}

// Pages first .. first + count between two memories; null slots: one after another.
void copy_by_kernel(cudaStream_t stream, char* to, const int32_t* to_slots, const char* from, const int32_t* from_slots,
                    size_t count, size_t bytes, const Parameters& p) {
  static LargePageCopy parameters;
  for (size_t first = 0; first < count; first += LargePageCopy::pages) {
    const size_t pages = std::min<size_t>(LargePageCopy::pages, count - first);
    const auto piece = static_cast<uint32_t>(std::min<size_t>(bytes, static_cast<size_t>(p.bulk ? p.piece : 512 * p.unroll)));
    PageCopyShape& shape = parameters.shape;
    shape = {to, from, bytes, bytes, static_cast<uint32_t>((bytes + piece - 1) / piece), 0, piece, 0};
    shape.units = shape.pieces * static_cast<uint32_t>(pages);
    shape.last_bytes = static_cast<uint32_t>(bytes - size_t{shape.pieces - 1} * piece);
    for (size_t i = 0; i < pages; ++i) {
      parameters.to_slots[i] = to_slots == nullptr ? static_cast<int32_t>(first + i) : to_slots[first + i];
      parameters.from_slots[i] = from_slots == nullptr ? static_cast<int32_t>(first + i) : from_slots[first + i];
    }
    launch(stream, parameters, p);
  }
}

void copy_by_kernel(const Pools& pools, const Case& c, const Parameters& p) {
  copy_by_kernel(pools.stream, to_pool(pools, c), c.to.data(), from_pool(pools, c), c.from.data(), c.to.size(), c.bytes, p);
}

// Host pages lie one after another; the device's are gathered to, or spread from, a stretch of HBM that one copy moves.
void copy_by_gather(const Pools& pools, const Case& c) {
  const Parameters wide{false, 132, 0, 0, 0, 512, 4};
  const size_t total = c.bytes * c.to.size();
  if (c.in) {
    check(cudaMemcpyAsync(pools.staging, pools.host, total, cudaMemcpyDefault, pools.stream), "a copy");
    copy_by_kernel(pools.stream, pools.device, c.to.data(), pools.staging, nullptr, c.to.size(), c.bytes, wide);
  } else {
    copy_by_kernel(pools.stream, pools.staging, nullptr, pools.device, c.from.data(), c.to.size(), c.bytes, wide);
    check(cudaMemcpyAsync(pools.host, pools.staging, total, cudaMemcpyDefault, pools.stream), "a copy");
  }
}

std::vector<Parameters> variants() {
  std::vector<Parameters> all;
  int optin = 0;
  check(cudaDeviceGetAttribute(&optin, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0), "attribute");
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "attribute");
  for (const int ctas : {1, 2, 4, 8, 12, 16, 24})
    for (const int ring : {32 << 10, 64 << 10, 96 << 10, 192 << 10})
      for (const int piece : {2 << 10, 4 << 10, 8 << 10, 16 << 10})
        for (const int lag : {1, 2, 4}) {
          const bool fits = ring / piece > lag && ring + 1024 <= optin && (ring / piece <= kMostStages || piece >= 4 << 10);
          if (major >= 9 && fits) all.push_back({true, ctas, ring, piece, lag});
        }
  for (const int ctas : {2, 4, 8, 16, 32})
    for (const int threads : {256, 512})
      for (const int unroll : {4, 8, 16}) all.push_back({false, ctas, 0, 0, 0, threads, unroll});
  return all;
}

// ---- pinning

double seconds_of(const std::function<void()>& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void touch_and_lock(size_t bytes, size_t chunk, int threads, bool lock_at_end) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  madvise(memory, bytes, MADV_HUGEPAGE);
  std::atomic<size_t> next{0};
  const double took = seconds_of([&] {
    std::vector<std::thread> workers;
    for (int i = 0; i < threads; ++i)
      workers.emplace_back([&] {
        check(cudaSetDevice(0), "device");
        for (size_t at; (at = next.fetch_add(1) * chunk) < bytes;) {
          char* from = static_cast<char*>(memory) + at;
          const size_t length = std::min(chunk, bytes - at);
          for (size_t i = 0; i < length; i += 4096) static_cast<volatile char*>(from)[i] = 0;
          if (!lock_at_end) check(cudaHostRegister(from, length, cudaHostRegisterPortable | cudaHostRegisterMapped), "register");
        }
      });
    for (std::thread& worker : workers) worker.join();
    if (lock_at_end) check(cudaHostRegister(memory, bytes, cudaHostRegisterPortable | cudaHostRegisterMapped), "register");
  });
  const double freed = seconds_of([&] {
    for (size_t at = 0; at < bytes; at += lock_at_end ? bytes : chunk)
      check(cudaHostUnregister(static_cast<char*>(memory) + at), "unregister");
    munmap(memory, bytes);
  });
  const double gib = static_cast<double>(bytes) / (1u << 30);
  printf("pinning: touch + register, chunks of %zu MiB, %2d threads, %s: %.3f s/GiB, release %.3f s/GiB\n", chunk >> 20, threads,
         lock_at_end ? "registered as a whole" : "registered by chunk", took / gib, freed / gib);
}

void time_pinning() {
  constexpr size_t kBytes = size_t{4} << 30;
  void* memory = nullptr;
  const double took =
      seconds_of([&] { check(cudaHostAlloc(&memory, kBytes, cudaHostAllocPortable | cudaHostAllocMapped), "host alloc"); });
  const double freed = seconds_of([&] { check(cudaFreeHost(memory), "free"); });
  printf("pinning: cudaHostAlloc: %.3f s/GiB, release %.3f s/GiB\n", took / 4, freed / 4);
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  for (const int threads : {1, 4, 8, cores})
    for (const size_t chunk : {size_t{16} << 20, size_t{64} << 20, size_t{256} << 20})
      touch_and_lock(kBytes, chunk, threads, false);
  touch_and_lock(kBytes, size_t{64} << 20, cores, true);
}

// ---- all of it

struct Score {
  double log_share = 0;
  int sizes = 0;
};

void tune(const Pools& pools, bool in, size_t moved, std::map<std::string, Score>& scores) {
  const Case whole{in, kPool / 2, {1}, {0}};
  const double raw = gb_per_s(pools, whole.total(), [&] { copy_by_dma(pools, whole); });
  printf("\n%s: one copy of 512 MiB %.1f GB/s\n%8s %6s %6s %6s   best kernel of each form, and the second\n", in ? "in" : "out",
         raw, "page", "dma", "batch", "gather");
  for (size_t bytes = 4096; bytes <= size_t{4} << 20; bytes *= 2) {
    const size_t rows = kPool / bytes, count = std::min({rows, size_t{65536}, std::max<size_t>(8, moved / bytes)});
    const Case c{in, bytes, shuffled(rows, count, 1), shuffled(rows, count, 2)};
    const double dma = gb_per_s(pools, c.total(), [&] { copy_by_dma(pools, c); });
    const double batch = gb_per_s(pools, c.total(), [&] { copy_by_batch(pools, c); });
    const double gather = gb_per_s(pools, c.total(), [&] { copy_by_gather(pools, c); });
    std::vector<std::pair<double, Parameters>> kernels;
    for (const Parameters& p : variants()) {
      const auto body = [&] { copy_by_kernel(pools, c, p); };
      if (!arrives(pools, c, body)) printf("WRONG: %s at %zu bytes %s\n", p.text().c_str(), bytes, in ? "in" : "out");
      const double rate = gb_per_s(pools, c.total(), body);
      kernels.emplace_back(rate, p);
      if (bytes > size_t{64} << 10) continue;
      Score& score = scores[p.text()];
      score.log_share += std::log(rate / raw);
      ++score.sizes;
    }
    std::sort(kernels.begin(), kernels.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    printf("%7zuK %6.1f %6.1f %6.1f", bytes >> 10, dma, batch, gather);
    for (const bool bulk : {true, false}) {
      int shown = 0;
      for (const auto& [rate, p] : kernels) {
        if (p.bulk != bulk || shown == 2) continue;
        printf(" | %5.1f (%.2f) %s", rate, rate / raw, p.text().c_str());
        ++shown;
      }
    }
    printf("\n");
    fflush(stdout);
  }
}

}  // namespace

int main(int count, char** arguments) {
  const size_t moved = static_cast<size_t>(count > 1 ? atoi(arguments[1]) : 256) << 20;
  Pools pools{};
  check(cudaStreamCreateWithFlags(&pools.stream, cudaStreamNonBlocking), "stream");
  check(cudaHostAlloc(reinterpret_cast<void**>(&pools.host), kPool, cudaHostAllocPortable | cudaHostAllocMapped), "host pool");
  check(cudaMalloc(reinterpret_cast<void**>(&pools.device), kPool), "device pool");
  check(cudaMalloc(reinterpret_cast<void**>(&pools.staging), kPool), "staging");
  memset(pools.host, 1, kPool);
  for (const bool in : {true, false}) {
    std::map<std::string, Score> scores;
    tune(pools, in, moved, scores);
    std::vector<std::pair<double, std::string>> ranked;
    for (const auto& [text, score] : scores) ranked.emplace_back(std::exp(score.log_share / score.sizes), text);
    std::sort(ranked.rbegin(), ranked.rend());
    printf("%s, 4K to 64K, geometric mean of the share of one large copy:\n", in ? "in" : "out");
    for (size_t i = 0; i < std::min<size_t>(12, ranked.size()); ++i)
      printf("  %.3f %s\n", ranked[i].first, ranked[i].second.c_str());
  }
  time_pinning();
}
