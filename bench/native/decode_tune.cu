// Times decode over paged caches with shuffled pages: the shipped choice beside other tiles, loaders, grids and splits, over
// uniform and ragged batches. Every graph node reads another set of pages, so that no cache helps.
//   decode_tune [json file [part of a batch's name]]
#include "../../cuda/attention/decode_load.cuh"
#include "decode_variants.h"
#include "timing.h"

namespace kvasir::bench {
namespace {

using cuda::AttentionPlan;
using cuda::DecodeVariant;
using cuda::Hardware;

struct Batch {
  const char* name;
  int head_dim, qo_heads, kv_heads, queries;
  std::vector<int> kv;
  int page = 64;
};

// Device tensors of a batch, several sets of them.
class Pool {
 public:
  explicit Pool(const Batch& b) : batch_(b) {
    const int requests = static_cast<int>(b.kv.size());
    std::vector<int> starts;
    for (int kv : b.kv) starts.push_back(pages_), pages_ += std::max(pages_of(kv, b.page), 1), tokens_ += kv;
    const size_t slot = static_cast<size_t>(2) * b.kv_heads * b.page * b.head_dim;
    sets_ = static_cast<int>(std::clamp<size_t>((256u << 20) / (pages_ * slot * 2) + 1, 1, 64));
    const int slots = sets_ * pages_;
    n_ = static_cast<size_t>(requests) * b.queries * b.qo_heads * b.head_dim;
    std::vector<int> tables(slots), offsets;
    std::iota(tables.begin(), tables.end(), 0);
    std::shuffle(tables.begin(), tables.end(), std::mt19937(9));
    for (int i = 0; i < 2 * b.kv_heads; ++i) offsets.push_back(i * b.page * b.head_dim * 2);
    tables_ = ints(tables);
    args.q = view(buffer(n_, 6), KVASIR_BF16, {static_cast<int64_t>(requests) * b.queries, b.qo_heads, b.head_dim});
    args.out = args.q;
    args.out.data = buffer(n_, 7);
    args.pages = view(buffer(slots * slot, 5), KVASIR_BF16, {slots, static_cast<int64_t>(slot)});
    args.page_offsets = view(ints(offsets), KVASIR_I32, {b.kv_heads, 2});
    args.row_start = view(ints(starts), KVASIR_I32, {requests});
    args.kv_len = view(ints(b.kv), KVASIR_I32, {requests});
    args.page_size = b.page, args.window_left = -1, args.causal = 1;
    set(0);
  }
  Pool(const Pool&) = delete;
  ~Pool() {
    for (void* p : owned_) cudaFree(p);
  }

  kvasir_attention_args args = {};
  void set(int i) { args.page_indices = view(tables_ + i % sets_ * pages_, KVASIR_I32, {pages_}); }
  int sets() const { return sets_; }
  double bytes() const { return 4.0 * tokens_ * batch_.kv_heads * batch_.head_dim; }
  int nodes() const { return bytes() > 1e9 ? 8 : 32; }
  std::vector<uint16_t> result() const {
    std::vector<uint16_t> out(n_);
    check(cudaMemcpy(out.data(), args.out.data, n_ * 2, cudaMemcpyDeviceToHost), "read");
    return out;
  }
  void poison() { check(cudaMemset(args.out.data, 0xff, n_ * 2), "poison"); }

 private:
  __nv_bfloat16* buffer(size_t n, uint32_t seed) {
    owned_.push_back(random_buffer(n, seed));
    return static_cast<__nv_bfloat16*>(owned_.back());
  }
  int* ints(const std::vector<int>& x) {
    void* p;
    check(cudaMalloc(&p, x.size() * 4), "ints");
    check(cudaMemcpy(p, x.data(), x.size() * 4, cudaMemcpyHostToDevice), "ints");
    owned_.push_back(p);
    return static_cast<int*>(p);
  }

  const Batch batch_;
  int pages_ = 0, sets_ = 1;
  double tokens_ = 0;
  size_t n_ = 0;
  int* tables_ = nullptr;
  std::vector<void*> owned_;
};

std::vector<DecodeVariant> variants_of(int d) {
  std::vector<DecodeVariant> list;
  switch (d) {
    case 64: cuda::decode_variants_64(list); break;
    case 96: cuda::decode_variants_96(list); break;
    case 128: cuda::decode_variants_128(list); break;
    case 192: cuda::decode_variants_192(list); break;
    default: cuda::decode_variants_256(list); break;
  }
  return list;
}

void time_batch(const Hardware& hw, const Batch& b, bool variants) {
  Pool pool(b);
  Scratch scratch;
  const auto run = [&](int splits, cudaStream_t stream) {
    pool.args.num_splits = splits;
    const AttentionPlan plan = cuda::plan_attention(pool.args, hw);
    check(cuda::run_attention(plan, hw, scratch.at_least(plan.workspace), mailbox(), stream), "run");
  };
  pool.args.num_splits = 256;
  scratch.at_least(cuda::plan_attention(pool.args, hw).workspace);
  pool.poison();
  run(1, nullptr);
  const std::vector<uint16_t> expected = pool.result();
  const auto timed = [&](const char* name, const std::function<void(cudaStream_t)>& body) {
    pool.set(0);
    pool.poison();
    body(nullptr);
    check(cudaDeviceSynchronize(), name);
    const bool right = relative_difference(pool.result(), expected) < 5e-3;
    const double us = graph_us(std::max(pool.nodes(), pool.sets()), [&](int i, cudaStream_t stream) {
      pool.set(i);
      body(stream);
    });
    report(b.name, right ? name : (std::string(name) + " WRONG").c_str(), us, pool.bytes() * 1e-3 / us, "GB/s");
  };
  timed("shipped", [&](cudaStream_t stream) {
    pool.args.num_splits = 0;
    const AttentionPlan plan = cuda::plan_attention(pool.args, hw);
    check(cuda::run_attention(plan, hw, scratch.at_least(0), mailbox(), stream), "run");
  });
  for (int splits : {1, 4, 16}) {
    char name[64];
    std::snprintf(name, sizeof name, "%d splits and a combine", splits);
    timed(name, [&](cudaStream_t stream) {
      pool.args.num_splits = splits;
      const AttentionPlan plan = cuda::plan_attention(pool.args, hw);
      check(cuda::run_attention(plan, hw, scratch.at_least(0), mailbox(), stream), "run");
    });
  }
  const int rows = b.queries * (b.qo_heads / b.kv_heads);
  for (const DecodeVariant& x : variants ? variants_of(b.head_dim) : std::vector<DecodeVariant>{}) {
    if (x.rows < rows || x.rows >= 2 * std::max(rows, 8)) continue;
    for (int per_sm = 1; per_sm <= x.resident; ++per_sm) {
      char name[96];
      std::snprintf(name, sizeof name, "%s%s, %d an SM", x.tma ? "tma " : "", x.name, per_sm);
      timed(name, [&](cudaStream_t stream) {
        pool.args.num_splits = 0;
        AttentionPlan plan = cuda::plan_attention(pool.args, hw);
        cuda::AttentionParams& p = plan.params;
        plan.decode_rows = x.rows, plan.bulk_copies = x.tma;
        p.slots = std::min(hw.sm_count * per_sm, cuda::kMaxWorkers);
        p.by_slots = cuda::FastDiv(static_cast<uint32_t>(p.slots));
        p.even_items = 0;
        p.box_rows = p.page_size % x.keys == 0 ? x.keys : cuda::kPageGroup;
        p.join_through(mailbox(), scratch.at_least(0));
        check(x.launch(plan, stream), name);
      });
    }
  }
}

using PlannedShape = cuda::DecodeShape<128, 8, 4, 32, 3, 1>;

// What every decode CTA does before it reads a key.
__global__ void __launch_bounds__(PlannedShape::kThreads)
    plan_kernel(const __grid_constant__ cuda::AttentionParams p, int64_t* out) {
  __shared__ cuda::WorkShared<PlannedShape::kThreads> shared;
  cuda::Walk<PlannedShape> walk;
  const int entry = min(static_cast<int>(threadIdx.x), cuda::entries_of(p) - 1);
  const cuda::Work work = walk.start(p, shared, blockIdx.x, false, cuda::load_entry(p, entry));
  if (threadIdx.x == 0) out[blockIdx.x] = work.begin + work.entry + work.position;
}
__global__ void empty_kernel(const __grid_constant__ cuda::AttentionParams p, int64_t* out) {
  if (p.batch < 0) out[blockIdx.x] = 0;
}

// Planning alone, and the cost of a graph node that does nothing: the difference is planning's.
void time_planning(const Hardware& hw, int requests) {
  Pool pool({"planning", 128, 32, 8, 1, std::vector<int>(requests, 64)});
  const cuda::AttentionParams p = cuda::plan_attention(pool.args, hw).params;
  int64_t* out;
  check(cudaMalloc(reinterpret_cast<void**>(&out), hw.sm_count * 8), "plan");
  char name[64];
  std::snprintf(name, sizeof name, "planning B%d", requests);
  const double nothing =
      graph_us(64, [&](int, cudaStream_t stream) { empty_kernel<<<hw.sm_count, PlannedShape::kThreads, 0, stream>>>(p, out); });
  const double planned =
      graph_us(64, [&](int, cudaStream_t stream) { plan_kernel<<<hw.sm_count, PlannedShape::kThreads, 0, stream>>>(p, out); });
  report(name, "empty node", nothing, 0, "");
  report(name, "planning node", planned, planned - nothing, "us more");
  cudaFree(out);
}

std::vector<int> lognormal(int count, double sigma, double mean, uint32_t seed) {
  std::mt19937 rng(seed);
  std::lognormal_distribution<double> draw(std::log(mean) - sigma * sigma / 2, sigma);
  std::vector<int> x;
  for (int i = 0; i < count; ++i) x.push_back(std::max(1, static_cast<int>(draw(rng))));
  return x;
}

std::vector<int> joined(std::vector<int> a, const std::vector<int>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace
}  // namespace kvasir::bench

int main(int argc, char** argv) {
  using namespace kvasir::bench;
  const kvasir::cuda::Hardware hw = hardware();
  const std::string only = argc > 2 ? argv[2] : "";
  const auto time = [&](const Batch& b, bool variants) {
    if (std::string(b.name).find(only) != std::string::npos) time_batch(hw, b, variants);
  };
  using V = std::vector<int>;
  if (only.empty()) {
    for (int requests : {1, 64, 256, 4096}) time_planning(hw, requests);
  }
  time({"B1 1k", 128, 32, 8, 1, {1024}}, true);
  time({"B1 4k", 128, 32, 8, 1, {4096}}, true);
  time({"B1 8k", 128, 32, 8, 1, {8192}}, true);
  time({"B1 32k", 128, 32, 8, 1, {32768}}, true);
  time({"B1 32k q4", 128, 32, 8, 4, {32768}}, true);
  time({"B1 32k q8", 128, 32, 8, 8, {32768}}, true);
  time({"B1 128k", 128, 32, 8, 1, {131072}}, true);
  time({"B1 512k", 128, 32, 8, 1, {524288}}, true);
  time({"B16 8k", 128, 32, 8, 1, V(16, 8192)}, true);
  time({"B16 8k page 16", 128, 32, 8, 1, V(16, 8192), 16}, true);
  time({"B64 8k", 128, 32, 8, 1, V(64, 8192)}, true);
  time({"1x128k + 63x1k", 128, 32, 8, 1, joined({131072}, V(63, 1024))}, true);
  time({"lognormal B64 8k", 128, 32, 8, 1, lognormal(64, 1.5, 8192, 3)}, true);
  time({"MQA B32 32k", 128, 8, 1, 1, V(32, 32768)}, true);
  time({"B16 MHA 4k", 128, 32, 32, 1, V(16, 4096)}, true);
  time({"1 head 1M", 128, 4, 1, 1, {1 << 20}}, true);
  time({"group 16 B8 16k", 128, 128, 8, 1, V(8, 16384)}, true);
  time({"B16 8k q4", 128, 32, 8, 4, V(16, 8192)}, true);
  time({"B16 8k q8", 128, 32, 8, 8, V(16, 8192)}, true);
  time({"B256 512", 128, 32, 8, 1, V(256, 512)}, true);
  time({"B4096 64", 128, 32, 8, 1, V(4096, 64)}, true);
  time({"d64 64/8 B32 8k", 64, 64, 8, 1, V(32, 8192)}, true);
  time({"d96 32/8 B8 16k", 96, 32, 8, 1, V(8, 16384)}, true);
  time({"d192 16/8 B8 16k", 192, 16, 8, 1, V(8, 16384)}, true);
  time({"d256 16/8 B8 16k", 256, 16, 8, 1, V(8, 16384)}, true);
  write_table(argc > 1 ? argv[1] : nullptr);
  return 0;
}
