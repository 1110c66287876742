// Correctness of the attention kernels: a grid of shapes and variants against float64 on fresh random inputs with poison, and the
// laws that hold beyond single results (replay, repeatability, batch invariance, large pools, merging).
#include "attention_driver.h"

namespace kvasir::bench {
namespace {

using cuda::AttentionPlan;
using cuda::Hardware;

Scratch scratch;

void run(const kvasir_attention_args& args, const Hardware& hw) {
  const AttentionPlan plan = cuda::plan_attention(args, hw);
  check(cuda::run_attention(plan, hw, scratch.at_least(plan.workspace), mailbox(), nullptr), "run_attention");
}

// Lets the next kernel start at once, and writes what that one is to read only when it has long begun, which `seen` counts: its
// first CTA counts itself in at `begun`, having looked up lengths and tables.
__global__ void write_late(int* to, const int* from, int count, const unsigned* begun, int* seen) {
#if __CUDA_ARCH__ >= 900
  const auto now = [=] { return *static_cast<const volatile unsigned*>(begun); };
  if (threadIdx.x == 0) {
    const unsigned before = now();
    __threadfence();
    cudaTriggerProgrammaticLaunchCompletion();
    for (int i = 0; i < 10000 && now() == before; ++i) __nanosleep(100);
    for (int i = 0; i < 20; ++i) __nanosleep(1000);
    *seen += now() != before;
  }
  __syncthreads();
#endif
  for (int i = threadIdx.x; i < count; i += blockDim.x) to[i] = from[i];
}

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

}  // namespace

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
  std::printf("%d of %d cases pass; worst relative norm f32 %.1e f16 %.1e bf16 %.1e\n", total - failed, total,
              worst_norm[KVASIR_F32], worst_norm[KVASIR_F16], worst_norm[KVASIR_BF16]);
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
    check(cuda::run_attention(plan, hw, work, mailbox(), stream), "run in capture");
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
    check(cudaMemcpy(const_cast<void*>(static_cast<const void*>(p.args.kv_len.data)), shorter, sizeof shorter,
                     cudaMemcpyHostToDevice),
          "lengths");
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
    for (size_t i = 0; i + 64 < replayed.size(); ++i)
      worst = std::max<double>(worst, std::isnan(replayed[i]) ? 1 : std::abs(replayed[i] - p.out.host[i]));
    law("replay with other lengths", worst < 1e-2);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
  }
  {  // one request is planned, and its first keys are read ahead, before anything that is read can be counted on
    Case c;
    c.head_dim = 128, c.qo_heads = 8, c.kv_heads = 2, c.page_size = 64, c.qo = {1}, c.kv = {5000};
    Problem p(c, 23);
    const AttentionPlan plan = cuda::plan_attention(p.args, hw);
    void* const work = scratch.at_least(plan.workspace);  // once: a memset between two kernels would part them
    const unsigned* const begun = static_cast<cuda::DecodeTurns*>(mailbox())->begun;
    int* seen;
    check(cudaMalloc(reinterpret_cast<void**>(&seen), sizeof *seen), "seen");
    const struct {
      const char* name;
      const kvasir_tensor& tensor;
      bool table;
    } changing[] = {{"lengths of the kernel before", p.args.kv_len, false},
                    {"tables of the kernel before", p.args.page_indices, true},
                    {"keys and values of the kernel before", p.args.pages, false},
                    {"queries of the kernel before", p.args.q, false}};
    for (const auto& [name, tensor, table] : changing) {
      size_t bytes = tensor.dtype == KVASIR_I32 ? 4 : 2;
      for (int d = 0; d < tensor.rank; ++d) bytes *= tensor.shape[d];
      const int count = static_cast<int>(bytes / 4);
      int *right, *at = static_cast<int*>(tensor.data);
      check(cudaMalloc(reinterpret_cast<void**>(&right), bytes), "right");
      check(cudaMemcpy(right, at, bytes, cudaMemcpyDeviceToDevice), "right");
      check(cudaMemset(seen, 0, sizeof *seen), "seen");
      bool good = true;
      constexpr int kTimes = 20;
      for (int i = 0; i < kTimes; ++i) {
        std::vector<int> wrong(count, table ? i % 2 : 100 * i);
        check(cudaMemcpy(at, wrong.data(), bytes, cudaMemcpyHostToDevice), "wrong");
        p.poison();
        write_late<<<1, 1024>>>(at, right, count, begun, seen);
        check(cuda::run_attention(plan, hw, work, mailbox(), nullptr), name);
        check(cudaDeviceSynchronize(), name);
        good = good && p.compare().norm < 6e-3;
      }
      int times = 0;
      check(cudaMemcpy(&times, seen, sizeof times, cudaMemcpyDeviceToHost), "seen");
      law(name, good && (times == kTimes || !plan.bulk_copies));
      cudaFree(right);
    }
    cudaFree(seen);
  }
  {  // launches of one mailbox follow one another: few tiles, many, too many requests to be planned early, another head_dim
    Case few, many, crowd, narrow;
    for (Case* c : {&few, &many, &crowd, &narrow}) c->head_dim = 128, c->qo_heads = 8, c->kv_heads = 2, c->page_size = 64;
    few.qo = {1}, few.kv = {300};
    many.qo = {1, 1, 1}, many.kv = {20000, 1, 9000};
    crowd.qo.assign(300, 1), crowd.kv.assign(300, 130);
    narrow.head_dim = 64, narrow.qo = {1, 1}, narrow.kv = {4000, 8000};
    Problem problems[] = {Problem(few, 29), Problem(many, 31), Problem(crowd, 37), Problem(narrow, 41)};
    for (Problem& p : problems) p.poison();
    constexpr int kPlans = 4;
    AttentionPlan plans[kPlans];
    size_t workspace = 0;
    for (int i = 0; i < kPlans; ++i) {
      plans[i] = cuda::plan_attention(problems[i].args, hw);
      workspace = std::max(workspace, plans[i].workspace);
    }
    void* const work = scratch.at_least(workspace);
    for (int i = 0; i < 400; ++i)
      check(cuda::run_attention(plans[(i * 7 + i / 3) % kPlans], hw, work, mailbox(), nullptr), "launches in a row");
    check(cudaDeviceSynchronize(), "launches in a row");
    bool good = true;
    for (Problem& p : problems) good = good && p.compare().norm < 6e-3;
    law("launches in a row", good && mailbox_is_empty());
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
      check(cudaMemcpy(pool + to * slot_elements * 2, static_cast<char*>(p.args.pages.data) + indices[i] * old_slot, old_slot,
                       cudaMemcpyDeviceToDevice),
            "page");
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
  law("nothing is left in the mailbox", mailbox_is_empty());
  return pass;
}

}  // namespace kvasir::bench
