// Standalone driver for the portable attention kernels: correctness against float64 on fresh random inputs with poison, then
// timings of the shipped choice and of other tile shapes. Needs no backend: kernels are launched from plans.
//   attention_tune check [small] | time [json file] | tune [json file]
#include <cuda_bf16.h>

#include <functional>

#include "attention_driver.h"
#include "attention_variants.h"

namespace kvasir::bench {
namespace {

using cuda::AttentionParams;
using cuda::AttentionPlan;
using cuda::Hardware;
using cuda::Variant;

Scratch scratch;

__global__ void fill_random(__nv_bfloat16* x, size_t n, uint32_t seed) {
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

__nv_bfloat16* random_buffer(size_t n, uint32_t seed) {
  __nv_bfloat16* x;
  check(cudaMalloc(reinterpret_cast<void**>(&x), n * 2), "buffer");
  fill_random<<<1024, 256>>>(x, n, seed);
  return x;
}

// Median microseconds of `repeats` runs, each timed by its own events; `body(i)` picks its buffers by i.
double median_us(int repeats, const std::function<void(int)>& body) {
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
double graph_us(int nodes, const std::function<void(int, cudaStream_t)>& body) {
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
std::vector<Row> table;
void report(const std::string& work, const std::string& variant, double us, double rate, const char* unit) {
  std::printf("%-44s %-26s %10.1f us %8.1f %s\n", work.c_str(), variant.c_str(), us, rate, unit);
  table.push_back({work, variant, us, rate});
}

constexpr int kTuneDims[] = {64, 96, 128, 192, 256};
std::vector<Variant> variants_of(int d, bool decode) {
  std::vector<Variant> list;
  switch (d) {
    case 64: decode ? cuda::decode_variants_64(list) : cuda::prefill_variants_64(list); break;
    case 96: decode ? cuda::decode_variants_96(list) : cuda::prefill_variants_96(list); break;
    case 128: decode ? cuda::decode_variants_128(list) : cuda::prefill_variants_128(list); break;
    case 192: decode ? cuda::decode_variants_192(list) : cuda::prefill_variants_192(list); break;
    default: decode ? cuda::decode_variants_256(list) : cuda::prefill_variants_256(list); break;
  }
  return list;
}

double relative_difference(const std::vector<uint16_t>& a, const std::vector<uint16_t>& b) {
  double e = 0, n = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double x = bf16_to_float(a[i]), y = bf16_to_float(b[i]);
    e += (x - y) * (x - y), n += y * y;
  }
  return std::sqrt(e / n);
}

// What a prefill row adds to the plain problem.
struct Options {
  const char* name = "";
  float soft_cap = 0;
  int window = -1;
};

void time_prefill(const Hardware& hw, int d, int length, bool variants, const Options& options = {}) {
  const int total = 16384, batch = total / length, heads = std::max(2048 / d, 1), sets = 2;
  const size_t n = static_cast<size_t>(total) * heads * d;
  __nv_bfloat16 *q = random_buffer(n * sets, 1), *k = random_buffer(n * sets, 2), *v = random_buffer(n * sets, 3), *out;
  check(cudaMalloc(reinterpret_cast<void**>(&out), n * sets * 2), "out");
  for (const bool causal : {true, false}) {
    kvasir_attention_args a = {};
    std::vector<int> indptr(batch + 1);
    for (int i = 0; i <= batch; ++i) indptr[i] = i * length;
    int* device_indptr;
    check(cudaMalloc(reinterpret_cast<void**>(&device_indptr), indptr.size() * 4), "indptr");
    check(cudaMemcpy(device_indptr, indptr.data(), indptr.size() * 4, cudaMemcpyHostToDevice), "indptr");
    a.qo_indptr = a.kv_indptr = view(device_indptr, KVASIR_I32, {batch + 1});
    if (!causal && *options.name != 0) continue;
    a.window_left = options.window;
    a.logits_soft_cap = options.soft_cap;
    a.causal = causal;
    a.q = a.k = a.v = a.out = view(nullptr, KVASIR_BF16, {total, heads, d});
    const auto set = [&](int i) {
      a.q.data = q + i % sets * n, a.k.data = k + i % sets * n, a.v.data = v + i % sets * n, a.out.data = out + i % sets * n;
    };
    const double hidden =
        options.window >= 0 && options.window < length ? (length - options.window - 1.0) * (length - options.window) / 2 : 0;
    const double pairs = (causal ? length * (length + 1.0) / 2 : static_cast<double>(length) * length) - hidden;
    const double flops = 4.0 * batch * heads * pairs * d;
    char work[96];
    std::snprintf(work, sizeof work, "prefill d%d %s S=%d h%d%s", d, causal ? "causal" : "full", length, heads, options.name);
    set(0);
    const AttentionPlan plan = cuda::plan_attention(a, hw);
    void* space = scratch.at_least(plan.workspace);
    const double us = median_us(30, [&](int i) {
      set(i);
      check(cuda::run_attention(cuda::plan_attention(a, hw), hw, space, nullptr), "run");
    });
    report(work, "shipped", us, flops / us * 1e-6, "TFLOP/s");
    for (int section : variants&& causal ? std::vector<int>{1, 4, heads} : std::vector<int>{}) {
      AttentionPlan forced = plan;
      forced.params.heads_per_section = section;
      char name[64];
      std::snprintf(name, sizeof name, "shipped, sections of %d", section);
      const double t = median_us(30, [&](int) { check(cuda::run_attention(forced, hw, space, nullptr), "run"); });
      report(work, name, t, flops / t * 1e-6, "TFLOP/s");
    }
    std::vector<uint16_t> expected(n), got(n);
    check(cudaMemcpy(expected.data(), out, n * 2, cudaMemcpyDeviceToHost), "read");
    for (const Variant& x : variants ? variants_of(d, false) : std::vector<Variant>{}) {
      set(0);
      AttentionParams p = cuda::plan_attention(a, hw).params;
      p.num_splits = 1, p.split_tokens = 0;
      p.num_tiles = batch * ((length + x.rows - 1) / x.rows);
      check(cudaMemset(out, 0xff, n * sets * 2), "poison");
      const double t = median_us(30, [&](int i) {
        const size_t o = i % sets * n;
        p.q = reinterpret_cast<char*>(q + o), p.k = reinterpret_cast<char*>(k + o), p.v = reinterpret_cast<char*>(v + o),
        p.out = reinterpret_cast<char*>(out + o);
        check(x.launch(p, nullptr), x.name);
      });
      check(cudaMemcpy(got.data(), out, n * 2, cudaMemcpyDeviceToHost), "read");
      const double difference = relative_difference(got, expected);
      report(work, difference < 5e-3 ? x.name : std::string(x.name) + " WRONG", t, flops / t * 1e-6, "TFLOP/s");
    }
    cudaFree(device_indptr);
  }
  cudaFree(q), cudaFree(k), cudaFree(v), cudaFree(out);
}

// Paged decode or chunked prefill: `batch` requests of `kv` keys and `queries` queries; pages shuffled over a pool.
void time_paged(const Hardware& hw, int d, int qo_heads, int kv_heads, int batch, int kv, int queries, bool variants,
                int page = 64) {
  const int pages = pages_of(kv, page);
  const size_t slot = static_cast<size_t>(2) * kv_heads * page * d;
  const size_t bytes = static_cast<size_t>(batch) * pages * slot * 2;
  const int sets = static_cast<int>(std::clamp<size_t>((256u << 20) / bytes + 1, 1, 64)), slots = sets * batch * pages;
  __nv_bfloat16* pool = random_buffer(slots * slot, 5);
  const size_t n = static_cast<size_t>(batch) * queries * qo_heads * d;
  __nv_bfloat16 *q = random_buffer(n, 6), *out = random_buffer(n, 7);
  std::vector<int> tables(slots), starts(sets * batch), lens(batch, kv), offsets;
  std::iota(tables.begin(), tables.end(), 0);
  std::shuffle(tables.begin(), tables.end(), std::mt19937(9));
  for (int i = 0; i < sets * batch; ++i) starts[i] = i % batch * pages;
  for (int h = 0; h < kv_heads; ++h) offsets.push_back(2 * h * page * d * 2), offsets.push_back((2 * h + 1) * page * d * 2);
  const auto to_device = [](const std::vector<int>& x) {
    int* p;
    check(cudaMalloc(reinterpret_cast<void**>(&p), x.size() * 4), "ints");
    check(cudaMemcpy(p, x.data(), x.size() * 4, cudaMemcpyHostToDevice), "ints");
    return p;
  };
  int *device_tables = to_device(tables), *device_starts = to_device(starts), *device_lens = to_device(lens),
      *device_offsets = to_device(offsets);
  kvasir_attention_args a = {};
  a.q = view(q, KVASIR_BF16, {static_cast<int64_t>(batch) * queries, qo_heads, d});
  a.out = a.q;
  a.out.data = out;
  a.pages = view(pool, KVASIR_BF16, {slots, static_cast<int64_t>(slot)});
  a.page_offsets = view(device_offsets, KVASIR_I32, {kv_heads, 2});
  a.row_start = view(device_starts, KVASIR_I32, {batch});
  a.kv_len = view(device_lens, KVASIR_I32, {batch});
  a.page_size = page, a.window_left = -1, a.causal = 1;
  const auto set = [&](int i) { a.page_indices = view(device_tables + i % sets * batch * pages, KVASIR_I32, {batch * pages}); };
  char work[96];
  std::snprintf(work, sizeof work, "%s d%d h%d/%d B%d q%d kv%d page%d", queries > 16 ? "chunked" : "decode", d, qo_heads,
                kv_heads, batch, queries, kv, page);
  set(0);
  const AttentionPlan plan = cuda::plan_attention(a, hw);
  void* space = scratch.at_least(plan.workspace);
  const double kv_bytes = static_cast<double>(batch) * kv * kv_heads * d * 4;
  const double flops = 4.0 * batch * qo_heads * d * (static_cast<double>(queries) * kv - 0.5 * queries * (queries - 1.0));
  const double rate = queries > 16 ? flops * 1e-6 : kv_bytes * 1e-3;
  const char* unit = queries > 16 ? "TFLOP/s" : "GB/s";
  char name[64];
  std::snprintf(name, sizeof name, "shipped, %d splits", plan.params.num_splits);
  const auto shipped = [&](int i, cudaStream_t stream) {
    set(i);
    check(cuda::run_attention(cuda::plan_attention(a, hw), hw, space, stream), "run");
  };
  const double us = graph_us(std::max(32, sets), shipped);
  report(work, name, us, rate / us, unit);
  if (variants) {
    const double eager = median_us(50, [&](int i) { shipped(i, nullptr); });
    report(work, "shipped, eager", eager, rate / eager, unit);
    Scratch forced_scratch;
    std::vector<uint16_t> expected(n), got(n);
    set(0);
    check(cuda::run_attention(cuda::plan_attention(a, hw), hw, space, nullptr), "run");
    check(cudaMemcpy(expected.data(), out, n * 2, cudaMemcpyDeviceToHost), "read");
    for (const Variant& x : variants_of(d, true)) {
      const int base = x.ctas_per_sm * hw.sm_count / (batch * kv_heads);
      for (const int splits : {std::max(base, 1), std::max(base / 2, 1), std::max(2 * base, 2), std::max(4 * base, 2)}) {
        if (splits > 256) continue;
        AttentionPlan forced = plan;
        forced.params.num_splits = splits;
        forced.params.part_rows = batch * queries;
        forced.workspace = static_cast<size_t>(splits) * batch * queries * qo_heads * (d + 1) * 4;
        void* forced_space = forced_scratch.at_least(forced.workspace);
        forced.params.part_out = static_cast<float*>(forced_space);
        forced.params.part_lse = forced.params.part_out + static_cast<size_t>(splits) * batch * queries * qo_heads * d;
        check(cudaMemset(out, 0xff, n * 2), "poison");
        const double t = graph_us(std::max(32, sets), [&](int i, cudaStream_t stream) {
          set(sets - 1 - i % sets);  // ends with set 0
          forced.params.page_indices = static_cast<const int*>(a.page_indices.data);
          check(x.launch(forced.params, stream), x.name);
          if (splits > 1) check(cuda::launch_combine(forced, hw, stream), "combine");
        });
        set(0);
        forced.params.page_indices = static_cast<const int*>(a.page_indices.data);
        check(x.launch(forced.params, nullptr), x.name);
        if (splits > 1) check(cuda::launch_combine(forced, hw, nullptr), "combine");
        check(cudaMemcpy(got.data(), out, n * 2, cudaMemcpyDeviceToHost), "read");
        std::snprintf(name, sizeof name, "%s, %d splits%s", x.name, splits,
                      relative_difference(got, expected) < 5e-3 ? "" : " WRONG");
        report(work, name, t, rate / t, unit);
      }
    }
  }
  for (void* x : {static_cast<void*>(pool), static_cast<void*>(q), static_cast<void*>(out), static_cast<void*>(device_tables),
                  static_cast<void*>(device_starts), static_cast<void*>(device_lens), static_cast<void*>(device_offsets)}) {
    cudaFree(x);
  }
}

void time_all(const char* json, bool variants) {
  const Hardware hw = hardware();
  for (int d : kTuneDims) time_prefill(hw, d, 16384, variants);
  for (int d : {64, 128, 256}) time_prefill(hw, d, 1024, false);
  time_prefill(hw, 128, 4096, false);
  time_prefill(hw, 128, 16384, false, {" cap", 30.f, -1});
  time_prefill(hw, 128, 16384, false, {" window 1024", 0.f, 1024});
  time_paged(hw, 128, 32, 8, 1, 131072, 1, variants);
  time_paged(hw, 128, 32, 8, 16, 8192, 1, variants);
  time_paged(hw, 64, 64, 8, 8, 32768, 1, variants);
  time_paged(hw, 256, 16, 8, 8, 16384, 1, variants);
  time_paged(hw, 192, 16, 8, 8, 16384, 1, variants);
  time_paged(hw, 96, 32, 8, 8, 16384, 1, variants);
  for (int kv : {1024, 4096, 16384}) time_paged(hw, 128, 32, 8, 1, kv, 1, variants && kv == 1024);
  for (int batch : {5, 8, 32, 40, 64}) time_paged(hw, 128, 32, 8, batch, 4096, 1, false);
  time_paged(hw, 128, 56, 56, 4, 16384, 1, false);
  for (int queries : {2, 4, 8, 16}) time_paged(hw, 128, 32, 8, 8, 16384, queries, false);
  time_paged(hw, 128, 32, 8, 1, 32768, 512, false);
  time_paged(hw, 128, 32, 8, 1, 32768, 2048, false);
  time_paged(hw, 128, 32, 8, 16, 8192, 1, false, 16);
  time_paged(hw, 128, 32, 8, 1, 32768, 512, false, 16);
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

}  // namespace
}  // namespace kvasir::bench

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "check";
  if (mode == "check") {
    const bool small = argc > 2 && std::string(argv[2]) == "small";
    const bool cases_pass = kvasir::bench::check_cases(small), laws_hold = small || kvasir::bench::check_laws();
    return cases_pass && laws_hold ? 0 : 1;
  }
  kvasir::bench::time_all(argc > 2 ? argv[2] : nullptr, mode == "tune");
  return 0;
}
