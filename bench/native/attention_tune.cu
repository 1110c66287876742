// Standalone driver for the portable attention kernels: correctness against float64 on fresh random inputs with poison, then timings of
// the shipped choice and of other tile shapes. Needs no backend: kernels are launched from plans.
//   attention_tune check [small] | time [json file]
#include <cuda_bf16.h>

#include <functional>

#include "../../cuda/attention/params.h"
#include "attention_case.h"
#include "attention_variants.h"

namespace kvasir::bench {
namespace {

using cuda::AttentionKernel;
using cuda::AttentionParams;
using cuda::AttentionPlan;
using cuda::Hardware;
using cuda::Variant;

Hardware hardware() {
  Hardware h;
  cudaDeviceGetAttribute(&h.sm_count, cudaDevAttrMultiProcessorCount, 0);
  cudaDeviceGetAttribute(&h.cc_major, cudaDevAttrComputeCapabilityMajor, 0);
  cudaDeviceGetAttribute(&h.smem_per_sm, cudaDevAttrMaxSharedMemoryPerMultiprocessor, 0);
  return h;
}

struct Scratch {
  void* data = nullptr;
  size_t bytes = 0;
  void* at_least(size_t n) {
    if (n > bytes) {
      cudaFree(data);
      check(cudaMalloc(&data, n), "scratch");
      bytes = n;
    }
    if (n > 0) check(cudaMemset(data, 0xff, n), "scratch poison");
    return data;
  }
};
Scratch scratch;

void run(const kvasir_attention_args& args, const Hardware& hw) {
  const AttentionPlan plan = cuda::plan_attention(args, hw);
  check(cuda::run_attention(plan, hw, scratch.at_least(plan.workspace), nullptr), "run_attention");
}

// ---- correctness -----------------------------------------------------------------------------------------------------------------

std::vector<Case> cases(bool small) {
  std::vector<Case> list;
  const auto add = [&](Case c) { list.push_back(c); };
  const std::vector<int> dims = small ? std::vector<int>{64, 128, 256} : std::vector<int>{64, 96, 128, 192, 256};
  for (int d : dims) {
    for (int32_t type : {KVASIR_BF16, KVASIR_F16}) {
      if (small && type == KVASIR_F16 && d != 128) continue;
      Case base;
      base.dtype = type;
      base.head_dim = d;
      for (int page : {0, 16, 48}) {
        if (small && page == 48) continue;
        Case c = base;
        c.page_size = page;
        c.qo = {113, 0, 1, 130}, c.kv = {203, 5, 64, 130};  // prefill, ragged, an empty request
        add(c);
        c.causal = false, c.qo = {70, 9}, c.kv = {0, 300};  // no keys at all
        add(c);
        c.causal = true, c.qo = {200, 40}, c.kv = {130, 39};  // fewer keys than queries
        add(c);
        c.window = 40, c.qo = {150, 33}, c.kv = {300, 170};
        add(c);
        c.window = -1, c.splits = 3, c.qo = {90, 20}, c.kv = {700, 0};
        add(c);
        c.splits = 0, c.qo = {1, 1, 0, 1}, c.kv = {1, 517, 30, 1000};  // decode
        add(c);
        c.splits = 1;
        add(c);
        c.splits = 0, c.qo = {4, 2, 1}, c.kv = {3, 333, 0}, c.qo_heads = 7, c.kv_heads = 1, c.window = 64;
        add(c);
        c.window = -1, c.invariant = true, c.qo = {1, 3, 40}, c.kv = {1500, 2000, 700}, c.qo_heads = 4, c.kv_heads = 2;
        add(c);
        Case x = base;
        x.page_size = page;
        x.sink = true, x.soft_cap = 15, x.log_weight = true, x.q_gain = 4;
        for (const bool decode : {false, true}) {
          x.qo = decode ? std::vector<int>{1, 2} : std::vector<int>{70, 101};
          x.kv = {333, 101};
          x.log_weight_per_head = decode;
          add(x);
          Case y = x;
          y.rotate = true, y.soft_cap = 0, y.splits = decode ? 2 : 0, y.q_start = true;
          add(y);
          if (page > 0) {
            y.explicit_pages = true, y.per_head = decode, y.sink = false;
            add(y);
            y.window = 90, y.rotate = false;
            add(y);
          }
        }
      }
      Case huge = base;  // logits of +-1e4
      huge.q_gain = 10000.f / std::sqrt(static_cast<float>(d)) / 3;
      huge.qo = {65, 2}, huge.kv = {190, 100};
      add(huge);
      huge.qo = {1, 2};
      add(huge);
    }
  }
  for (int group : {1, 3, 4, 5, 7, 8, 16}) {
    Case c;
    c.head_dim = 64, c.qo_heads = group * 2, c.kv_heads = 2, c.page_size = 32, c.sink = true;
    c.qo = {1, 1}, c.kv = {129, 700}, c.use_indptr = false;
    add(c);
    c.use_indptr = true, c.qo = {37, 5}, c.kv = {129, 700};
    add(c);
  }
  for (int32_t type : {KVASIR_F32, KVASIR_BF16, KVASIR_F16}) {  // the plain kernel
    for (int d : {8, 80, 128, 256}) {
      if (type != KVASIR_F32 && d >= 128) continue;
      Case c;
      c.dtype = type, c.head_dim = d, c.qo = {33, 0, 2}, c.kv = {50, 4, 300};
      add(c);
      c.page_size = 16, c.splits = 3, c.sink = true, c.log_weight = true, c.soft_cap = 20;
      add(c);
      c.rotate = true, c.explicit_pages = true, c.per_head = true, c.window = 50;
      add(c);
    }
  }
  for (int d : dims) {  // one warp walks more pages than its lanes hold at a time
    for (int page : {0, 16, 256}) {
      Case c;
      c.head_dim = d, c.page_size = page, c.qo = {1, 2}, c.kv = {small ? 2500 : 6000, 4099}, c.splits = 1;
      add(c);
      c.splits = 256, c.soft_cap = 30, c.sink = true;
      add(c);
      c.splits = 0, c.invariant = true, c.explicit_pages = page > 0;
      add(c);
      c.explicit_pages = false, c.qo_heads = 70, c.kv_heads = 1, c.kv = {900, 500}, c.soft_cap = 0;
      add(c);
    }
  }
  Case many;  // 4096 requests
  many.head_dim = 64, many.qo_heads = 2, many.kv_heads = 1, many.page_size = 16;
  for (int i = 0; i < (small ? 300 : 4096); ++i) many.qo.push_back(i % 3), many.kv.push_back(i * 7 % 40);
  add(many);
  many.qo.assign(many.qo.size(), 1);
  add(many);
  return list;
}

bool check_cases(bool small) {
  const Hardware hw = hardware();
  int failed = 0, total = 0;
  double worst_norm[3] = {};
  uint32_t seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  for (const Case& c : cases(small)) {
    Problem p(c, seed++);
    p.poison();
    run(p.args, hw);
    check(cudaDeviceSynchronize(), c.name().c_str());
    const Problem::Errors e = p.compare();
    // Unit-variance values; peaked rows (large logits) round P and q to the dtype, and rotated keys are rounded once more.
    const double norm_limit = c.dtype == KVASIR_F32 ? 2e-5 : c.dtype == KVASIR_BF16 ? 6e-3 : 1e-3;
    const double out_limit = c.dtype == KVASIR_F32 ? 1e-4 : c.dtype == KVASIR_BF16 ? 3e-2 : 4e-3;
    const double lse_limit = c.rotate && c.dtype != KVASIR_F32 ? (c.dtype == KVASIR_BF16 ? 4e-2 : 6e-3) : 1e-4;
    const bool exact_keys = !(c.rotate && c.dtype != KVASIR_F32 && c.q_gain > 1);
    const bool pass = e.norm < norm_limit * (exact_keys ? 1 : 4) && e.out < out_limit * (exact_keys ? 1 : 6) && e.lse < lse_limit;
    worst_norm[c.dtype] = std::max(worst_norm[c.dtype], e.norm);
    ++total;
    if (!pass && ++failed <= 40) std::printf("FAIL %s: out %.2e norm %.2e lse %.2e\n", c.name().c_str(), e.out, e.norm, e.lse);
  }
  std::printf("%d of %d cases pass; worst relative norm f32 %.1e f16 %.1e bf16 %.1e\n", total - failed, total, worst_norm[KVASIR_F32],
              worst_norm[KVASIR_F16], worst_norm[KVASIR_BF16]);
  return failed == 0;
}

// A captured launch stays right when lengths change; repeats give the same bits; a request's bits do not depend on its batch.
bool check_laws() {
  const Hardware hw = hardware();
  bool pass = true;
  const auto law = [&](const char* name, bool holds) {
    std::printf("%s: %s\n", name, holds ? "holds" : "FAILS");
    pass = pass && holds;
  };
  {
    Case c;
    c.head_dim = 128, c.qo_heads = 8, c.kv_heads = 2, c.page_size = 64, c.qo = {1, 1, 1}, c.kv = {900, 2000, 64};
    Problem p(c, 7);
    const AttentionPlan plan = cuda::plan_attention(p.args, hw);
    void* work = scratch.at_least(plan.workspace);
    cudaStream_t stream;
    check(cudaStreamCreate(&stream), "stream");
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    check(cuda::run_attention(plan, hw, work, stream), "run in capture");
    check(cudaStreamEndCapture(stream, &graph), "end capture");
    check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    p.poison();
    check(cudaGraphLaunch(exec, stream), "launch");
    check(cudaStreamSynchronize(stream), "replay");
    law("replay", p.compare().norm < 6e-3);
    std::vector<float> first = p.out.host;
    bool same = true;
    for (int i = 0; i < 100; ++i) {
      p.poison();
      check(cudaGraphLaunch(exec, stream), "launch");
      check(cudaStreamSynchronize(stream), "replay");
      p.out.download();
      same = same && std::memcmp(first.data(), p.out.host.data(), (first.size() - 64) * 4) == 0;
    }
    law("100 replays give the same bits", same);
    // Shorter lengths, same graph: compare with a direct run of the shorter problem.
    const int shorter[] = {1, 1200, 0};
    check(cudaMemcpy(const_cast<void*>(static_cast<const void*>(p.args.kv_len.data)), shorter, sizeof shorter, cudaMemcpyHostToDevice), "lengths");
    p.poison();
    check(cudaGraphLaunch(exec, stream), "launch");
    check(cudaStreamSynchronize(stream), "replay");
    p.out.download();
    const std::vector<float> replayed = p.out.host;
    kvasir_attention_args single = p.args;
    single.num_splits = 1;
    p.poison();
    run(single, hw);
    check(cudaDeviceSynchronize(), "direct");
    p.out.download();
    double worst = 0;
    for (size_t i = 0; i + 64 < replayed.size(); ++i) worst = std::max<double>(worst, std::isnan(replayed[i]) ? 1 : std::abs(replayed[i] - p.out.host[i]));
    law("replay with other lengths", worst < 1e-2);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
  }
  for (int queries : {1, 24}) {  // batch-invariant: the last request alone, and among others
    for (int d : {64, 96, 128, 192, 256}) {
      Case c;
      c.head_dim = d, c.qo_heads = 8, c.kv_heads = 2, c.page_size = 64, c.invariant = true;
      c.qo.assign(20, queries), c.kv.assign(20, 700);
      c.kv.back() = 3000;
      Problem p(c, 11);
      p.poison();
      run(p.args, hw);
      check(cudaDeviceSynchronize(), "batch");
      p.out.download();
      const std::vector<float> together = p.out.host;
      kvasir_attention_args alone = p.args;
      const int64_t skip = 19, tokens = skip * queries;
      const int indptr[] = {0, queries};
      check(cudaMemcpy(alone.qo_indptr.data, indptr, sizeof indptr, cudaMemcpyHostToDevice), "indptr");
      alone.qo_indptr.shape[0] = 2;
      alone.kv_len.shape[0] = alone.row_start.shape[0] = 1;
      alone.kv_len.data = static_cast<int*>(alone.kv_len.data) + skip;
      alone.row_start.data = static_cast<int*>(alone.row_start.data) + skip;
      alone.q.shape[0] = alone.out.shape[0] = alone.lse.shape[0] = queries;
      alone.q.data = static_cast<uint16_t*>(alone.q.data) + tokens * alone.q.stride[0];
      p.poison();
      run(alone, hw);
      check(cudaDeviceSynchronize(), "alone");
      p.out.download();
      const size_t n = static_cast<size_t>(queries) * 8 * d;
      char name[64];
      std::snprintf(name, sizeof name, "batch invariance, d%d, %d queries", d, queries);
      law(name, std::memcmp(&together[tokens * 8 * d], p.out.host.data(), n * 4) == 0);
    }
  }
  {  // a pool beyond 2^31 elements: the request's pages are the last ones
    const int64_t slot_elements = 64 * 128 * 2 * 8, slots = (5ll << 30) / (slot_elements * 2) + 8;
    Case c;
    c.head_dim = 128, c.qo_heads = 8, c.kv_heads = 2, c.page_size = 64, c.qo = {1, 40}, c.kv = {300, 200};
    Problem p(c, 13);
    char* pool;
    check(cudaMalloc(reinterpret_cast<void**>(&pool), slots * slot_elements * 2), "pool");
    check(cudaMemset(pool, 0xff, slots * slot_elements * 2), "pool poison");
    std::vector<int> indices(p.args.page_indices.shape[0]);
    check(cudaMemcpy(indices.data(), p.args.page_indices.data, indices.size() * 4, cudaMemcpyDeviceToHost), "indices");
    const int64_t old_slot = p.args.pages.stride[0] * 2;
    for (size_t i = 0; i < indices.size(); ++i) {
      if (indices[i] == INT32_MAX) continue;
      const int to = static_cast<int>(slots - 1 - i);
      check(cudaMemcpy(pool + to * slot_elements * 2, static_cast<char*>(p.args.pages.data) + indices[i] * old_slot, old_slot, cudaMemcpyDeviceToDevice), "page");
      indices[i] = to;
    }
    check(cudaMemcpy(p.args.page_indices.data, indices.data(), indices.size() * 4, cudaMemcpyHostToDevice), "indices");
    p.args.pages.data = pool;
    p.args.pages.shape[0] = slots;
    p.args.pages.shape[1] = p.args.pages.stride[0] = slot_elements;
    // Only the device's table moved; the oracle still reads the host's pool.
    p.poison();
    run(p.args, hw);
    check(cudaDeviceSynchronize(), "large pool");
    const Problem::Errors e = p.compare();
    law("pool beyond 2^31 elements", e.norm < 6e-3 && e.lse < 1e-4);
    cudaFree(pool);
  }
  {  // merging parts equals one pass
    Case c;
    c.head_dim = 128, c.qo = {5}, c.kv = {257}, c.causal = false;
    Problem p(c, 17);
    run(p.args, hw);
    check(cudaDeviceSynchronize(), "whole");
    const Problem::Errors whole = p.compare();
    const int64_t n = 5 * 4 * 128;
    void *parts, *parts_lse;
    check(cudaMalloc(&parts, 4 * n * 2), "parts");
    check(cudaMalloc(&parts_lse, 4 * n / 128 * 4), "parts lse");
    check(cudaMemset(parts, 0xff, 4 * n * 2), "poison");
    const int cuts[] = {0, 100, 100, 256, 257};
    for (int i = 0; i < 4; ++i) {
      kvasir_attention_args part = p.args;
      const int from = cuts[i], len = cuts[i + 1] - cuts[i], indptr[] = {0, len};
      part.k.data = static_cast<uint16_t*>(part.k.data) + from * part.k.stride[0];
      part.v.data = static_cast<uint16_t*>(part.v.data) + from * part.v.stride[0];
      part.k.shape[0] = part.v.shape[0] = len;
      check(cudaMemcpy(part.kv_indptr.data, indptr, sizeof indptr, cudaMemcpyHostToDevice), "indptr");
      part.out.data = static_cast<uint16_t*>(parts) + i * n;
      part.lse.data = static_cast<float*>(parts_lse) + i * n / 128;
      run(part, hw);
      check(cudaDeviceSynchronize(), "part");
    }
    check(cudaMemset(static_cast<uint16_t*>(parts) + n, 0xff, n * 2), "poison the empty part");
    kvasir_merge_args m = {};
    m.parts = view(parts, KVASIR_BF16, {4, 5, 4, 128});
    m.parts_lse = view(parts_lse, KVASIR_F32, {4, 5, 4});
    m.out = p.args.out;
    m.lse = p.args.lse;
    p.poison();
    check(cuda::launch_merge_parts(m, nullptr), "merge");
    check(cudaDeviceSynchronize(), "merge");
    const Problem::Errors merged = p.compare();
    law("merged parts equal one pass", whole.norm < 6e-3 && merged.norm < 6e-3 && merged.lse < 1e-5);
    cudaFree(parts);
    cudaFree(parts_lse);
  }
  return pass;
}

// ---- timing ----------------------------------------------------------------------------------------------------------------------

__global__ void fill_random(__nv_bfloat16* x, size_t n, uint32_t seed) {
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n; i += static_cast<size_t>(gridDim.x) * blockDim.x) {
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
    const double hidden = options.window >= 0 && options.window < length ? (length - options.window - 1.0) * (length - options.window) / 2 : 0;
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
    for (int section : variants && causal ? std::vector<int>{1, 4, heads} : std::vector<int>{}) {
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
        p.q = reinterpret_cast<char*>(q + o), p.k = reinterpret_cast<char*>(k + o), p.v = reinterpret_cast<char*>(v + o), p.out = reinterpret_cast<char*>(out + o);
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
void time_paged(const Hardware& hw, int d, int qo_heads, int kv_heads, int batch, int kv, int queries, bool variants, int page = 64) {
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
  int *device_tables = to_device(tables), *device_starts = to_device(starts), *device_lens = to_device(lens), *device_offsets = to_device(offsets);
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
  std::snprintf(work, sizeof work, "%s d%d h%d/%d B%d q%d kv%d page%d", queries > 16 ? "chunked" : "decode", d, qo_heads, kv_heads, batch, queries,
                kv, page);
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
        void* forced_space = scratch.at_least(forced.workspace);
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
        std::snprintf(name, sizeof name, "%s, %d splits%s", x.name, splits, relative_difference(got, expected) < 5e-3 ? "" : " WRONG");
        report(work, name, t, rate / t, unit);
      }
    }
    scratch.bytes = 0;  // the plan's own scratch pointer may have moved
    scratch.data = nullptr;
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
    std::fprintf(file, "  {\"work\": \"%s\", \"variant\": \"%s\", \"median_us\": %.2f, \"rate\": %.1f}%s\n", table[i].work.c_str(),
                 table[i].variant.c_str(), table[i].us, table[i].rate, i + 1 < table.size() ? "," : "");
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
