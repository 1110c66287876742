// Standalone driver for the portable attention kernels: correctness against float64 on fresh random inputs with poison, then
// timings of the shipped choice and of other tile shapes. Needs no backend: kernels are launched from plans.
//   attention_tune check [small] | time [json file] | tune [json file]
#include "attention_variants.h"
#include "timing.h"

namespace kvasir::bench {
namespace {

using cuda::AttentionParams;
using cuda::AttentionPlan;
using cuda::Hardware;
using cuda::Variant;

Scratch scratch;

constexpr int kTuneDims[] = {64, 96, 128, 192, 256};
std::vector<Variant> variants_of(int d) {
  std::vector<Variant> list;
  switch (d) {
    case 64: cuda::prefill_variants_64(list); break;
    case 96: cuda::prefill_variants_96(list); break;
    case 128: cuda::prefill_variants_128(list); break;
    case 192: cuda::prefill_variants_192(list); break;
    default: cuda::prefill_variants_256(list); break;
  }
  return list;
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
      check(cuda::run_attention(cuda::plan_attention(a, hw), hw, space, mailbox(), nullptr), "run");
    });
    report(work, "shipped", us, flops / us * 1e-6, "TFLOP/s");
    for (int section : variants&& causal ? std::vector<int>{1, 4, heads} : std::vector<int>{}) {
      AttentionPlan forced = plan;
      forced.params.heads_per_section = section;
      char name[64];
      std::snprintf(name, sizeof name, "shipped, sections of %d", section);
      const double t = median_us(30, [&](int) { check(cuda::run_attention(forced, hw, space, mailbox(), nullptr), "run"); });
      report(work, name, t, flops / t * 1e-6, "TFLOP/s");
    }
    std::vector<uint16_t> expected(n), got(n);
    check(cudaMemcpy(expected.data(), out, n * 2, cudaMemcpyDeviceToHost), "read");
    for (const Variant& x : variants ? variants_of(d) : std::vector<Variant>{}) {
      set(0);
      AttentionParams p = cuda::plan_attention(a, hw).params;
      p.num_splits = 1;
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

// Chunked prefill: `batch` requests of `kv` keys and `queries` queries; pages shuffled over a pool.
void time_paged(const Hardware& hw, int d, int qo_heads, int kv_heads, int batch, int kv, int queries, int page = 64) {
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
    check(cuda::run_attention(cuda::plan_attention(a, hw), hw, space, mailbox(), stream), "run");
  };
  const double us = graph_us(std::max(32, sets), shipped);
  report(work, name, us, rate / us, unit);
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
  time_paged(hw, 128, 32, 8, 1, 32768, 512);
  time_paged(hw, 128, 32, 8, 1, 32768, 2048);
  time_paged(hw, 128, 32, 8, 1, 32768, 512, 16);
  write_table(json);
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
