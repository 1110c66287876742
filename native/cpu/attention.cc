// Attention on the CPU: cuts a call into units and tasks (attention_plan.h), runs them on the pool, then folds the partials.
//
// Keys are split when there would be too little to share out among the threads (decode of one long request). batch_invariant:
// sums are folded at multiples of kFixedSplit keys whether or not the splits run apart, so the bits of a row depend on its own
// request alone.
#include "attention_plan.h"

#include <algorithm>

#include "ops.h"
#include "simd_x86.h"

namespace kvasir::cpu {
namespace {

constexpr int64_t kTasksPerThread = 8;
constexpr int64_t kShortestSplit = 512;              // keys; shorter ones cost more in folding than they gain
constexpr int64_t kPartsBudget = int64_t{64} << 20;  // bytes of partials that asked-for or fixed splits may take

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

AttentionKernel kernel_for(Isa isa, int32_t dtype) {
#if KVASIR_SIMD_X86
  // bf16 runs as f32 multiply-adds too: vdpbf16ps retires at half their rate on the cores at hand, and rounds more.
  if (isa >= Isa::avx512) return attention_kernel_avx512(dtype);
  if (isa == Isa::avx2) return attention_kernel_avx2(dtype);
#endif
  static_cast<void>(isa);
  return attention_kernel_portable(dtype);
}

// How the workspace is divided; depends on shapes and scalars only.
struct Layout {
  int64_t max_units, max_parts, part_stride;
  size_t units_at, parts_at, bytes;

  Layout(const AttentionProblem& problem, int threads) {
    const kvasir_attention_args& args = problem.args;
    const int64_t rows = problem.total_q * problem.group;
    max_units = problem.num_kv_heads * (rows / kRowTile + problem.batch);
    part_stride = part_floats(std::min<int64_t>(rows, kRowTile), problem.head_dim);
    const int64_t budget = part_stride > 0 ? kPartsBudget / (part_stride * 4) : 0;
    max_parts = threads > 1 ? 2 * kTasksPerThread * threads : 0;
    if (args.batch_invariant) {
      const int64_t keys = problem.paged ? args.page_indices.shape[0] * problem.page_size : args.k.shape[0];
      max_parts = threads > 1 ? std::min(budget, problem.num_kv_heads * (keys / kFixedSplit + max_units)) : 0;
    } else if (args.num_splits > 1) {
      max_parts = std::min(budget, args.num_splits * max_units);
    }
    units_at = aligned((max_units + max_parts) * sizeof(AttentionTask));
    parts_at = units_at + aligned(max_parts * sizeof(AttentionUnit));
    bytes = parts_at + max_parts * part_stride * sizeof(float);
  }
};

// Calls visit(unit, first_key, end_key) for each unit, the longest of a causal request first. A unit that sees no key has an
// empty range.
template <class Visit>
void each_unit(const AttentionProblem& problem, const Visit& visit) {
  for (int64_t b = 0; b < problem.batch; ++b) {
    const int64_t rows = (problem.first_query(b + 1) - problem.first_query(b)) * problem.group;
    for (int64_t kv_head = 0; kv_head < problem.num_kv_heads; ++kv_head) {
      const KeyRow keys = problem.keys(b, kv_head);
      for (int64_t first = (ceil_div(rows, kRowTile) - 1) * kRowTile; first >= 0; first -= kRowTile) {
        AttentionUnit unit = {b, kv_head, first, std::min<int64_t>(kRowTile, rows - first), 0, 0};
        int64_t begin = 0, end = keys.length;
        if (!present(problem.args.page_start)) {  // slots are positions
          begin = std::max<int64_t>(0, problem.visible(b, first / problem.group, keys).first);
          end = std::min(end, int64_t{problem.visible(b, (first + unit.rows - 1) / problem.group, keys).last} + 1);
        }
        begin = begin / kKeyTile * kKeyTile;
        visit(unit, begin, std::max(begin, end));
      }
    }
  }
}

struct Plan {
  AttentionTask* tasks;
  AttentionUnit* units;  // those in several parts
  int64_t num_tasks = 0, num_units = 0, num_parts = 0;
  int64_t fold_every;

  Plan(const AttentionProblem& problem, const Layout& layout, int threads, void* workspace)
      : tasks(static_cast<AttentionTask*>(workspace)),
        units(reinterpret_cast<AttentionUnit*>(static_cast<char*>(workspace) + layout.units_at)),
        fold_every(problem.args.batch_invariant ? kFixedSplit : 0) {
    const kvasir_attention_args& args = problem.args;
    int64_t total_keys = 0, count = 0;
    each_unit(problem, [&](const AttentionUnit&, int64_t begin, int64_t end) { total_keys += end - begin, ++count; });
    const int64_t even = std::max(kShortestSplit, ceil_div(total_keys, kTasksPerThread * threads));
    const bool fixed = args.batch_invariant != 0, few = threads > 1 && count < kTasksPerThread * threads;
    each_unit(problem, [&](AttentionUnit unit, int64_t begin, int64_t end) {
      if (fixed) {  // fixed splits start at multiples of their length
        add(unit, begin, end, begin / kFixedSplit * kFixedSplit, kFixedSplit, few ? layout.max_parts : 0);
        return;
      }
      int64_t split = end - begin;
      if (args.num_splits > 0) {
        split = ceil_div(split, args.num_splits);
      } else if (threads > 1 && split > even) {
        split = ceil_div(split, ceil_div(split, even));
      }
      add(unit, begin, end, begin, std::max<int64_t>(kKeyTile, ceil_div(split, kKeyTile) * kKeyTile), layout.max_parts);
    });
  }

 private:
  // Cuts keys [begin, end) of a unit at origin + i * split, unless that takes more parts than there is room for.
  void add(AttentionUnit unit, int64_t begin, int64_t end, int64_t origin, int64_t split, int64_t max_parts) {
    const int64_t parts = ceil_div(end - origin, split);
    AttentionTask task = {unit.request, unit.kv_head, unit.first_row, unit.rows, begin, end, fold_every, -1};
    if (parts <= 1 || num_parts + parts > max_parts) {
      tasks[num_tasks++] = task;
      return;
    }
    unit.first_part = num_parts, unit.count = parts;
    units[num_units++] = unit;
    for (int64_t i = 0; i < parts; ++i) {
      task.first_key = std::max(begin, origin + i * split);
      task.end_key = std::min(end, origin + (i + 1) * split);
      task.part = num_parts++;
      tasks[num_tasks++] = task;
    }
  }
};

}  // namespace

size_t attention_workspace(const kvasir_attention_args& args, int threads) {
  return Layout(AttentionProblem(args), threads).bytes;
}

void attention(Context& context, const kvasir_attention_args& args) {
  const AttentionProblem problem(args);
  const int threads = context.pool.size();
  const Layout layout(problem, threads);
  const Plan plan(problem, layout, threads, context.workspace);
  const AttentionKernel kernel = kernel_for(context.isa, args.q.dtype);
  const AttentionRun run = {problem, reinterpret_cast<float*>(static_cast<char*>(context.workspace) + layout.parts_at),
                            layout.part_stride, args.batch_invariant == 0};
  const size_t scratch = kernel.scratch_bytes(problem);
  context.pool.parallel_for(plan.num_tasks, [&](int64_t index, int thread) {
    kernel.task(run, plan.tasks[index], context.pool.scratch(thread, scratch));
  });
  if (plan.num_units == 0) return;
  context.pool.parallel_for(plan.num_units, [&](int64_t index, int thread) {
    kernel.combine(run, plan.units[index], context.pool.scratch(thread, scratch));
  });
}

}  // namespace kvasir::cpu
