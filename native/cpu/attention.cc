// Attention on the CPU: cuts a call into units, and those into tasks (attention_plan.h), and runs them on the pool; who runs a
// unit's last task folds its partials.
//
// As in stream-K (core/stream_k.h) the key tiles of all units form one line that is cut into runs, whatever the batch looks like.
// The cores of a shared host are not equally fast, so that runs are not equally long: threads take them up one by one, and they
// get shorter by halves towards the end of the line (factoring: Flynn Hummel, Schonberg and Flynn 1992). Where they are cut
// depends on lengths and the number of threads alone. batch_invariant: sums are folded at multiples of kFixedSplit keys whether
// or not the splits run apart, so the bits of a row depend on its own request alone.
#include "attention_plan.h"

#include <algorithm>
#include <atomic>

#include "ops.h"
#include "simd_x86.h"

namespace kvasir::cpu {
namespace {

constexpr int kRunsPerThread = 6;                    // each half as long as the one before, but for the last
constexpr int kShortestRun = 4;                      // tiles; shorter ones cost more in folding than they gain
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

int most_runs(int threads) { return threads > 1 ? kRunsPerThread * threads : 1; }

// The line of tiles while it is cut into runs, at most most_runs(threads) of them.
struct Line {
  const int64_t total;
  const int threads;
  int64_t tile = 0, run_end = 0;  // the next tile to give out, and where the run that it falls into ends
  int64_t length = 0;
  int count = 0;

  // Begins a run at `tile`.
  void begin_run() {
    if (count % threads == 0) {  // a round: a run for each thread
      const bool last = threads == 1 || count == (kRunsPerThread - 1) * threads;
      length = std::max<int64_t>(kShortestRun, ceil_div(total - tile, last ? threads : 2 * threads));
    }
    ++count;
    run_end = std::min(total, tile + length);
  }
};

// How the workspace is divided; depends on shapes and scalars only.
struct Layout {
  int64_t max_units, max_parts, part_stride;
  size_t runs_at, units_at, parts_at, bytes;

  Layout(const AttentionProblem& problem, int threads) {
    const kvasir_attention_args& args = problem.args;
    const int64_t rows = problem.total_q * problem.group;
    max_units = problem.num_kv_heads * (rows / kRowTile + problem.batch);
    part_stride = part_floats(std::min<int64_t>(rows, kRowTile), problem.head_dim);
    const int64_t budget = part_stride > 0 ? kPartsBudget / (part_stride * 4) : 0;
    max_parts = threads > 1 ? 2 * most_runs(threads) : 0;  // a run holds at most two pieces of units
    if (args.batch_invariant) {
      const int64_t keys = problem.paged ? args.page_indices.shape[0] * problem.page_size : args.k.shape[0];
      max_parts = threads > 1 ? std::min(budget, problem.num_kv_heads * (keys / kFixedSplit + max_units)) : 0;
    } else if (args.num_splits > 1) {
      max_parts = std::min(budget, args.num_splits * max_units);
    }
    runs_at = aligned((max_units + max_parts) * sizeof(AttentionTask));
    units_at = runs_at + aligned((max_units + max_parts + 1) * sizeof(int64_t));
    parts_at = units_at + aligned(max_parts * sizeof(AttentionUnit));
    bytes = parts_at + max_parts * part_stride * sizeof(float);
  }
};

// The key tiles of a unit.
struct TileRange {
  int64_t begin, end;
};

// Calls visit(unit, tiles, end key) for each unit, the longest of a causal request first. A unit that sees no key has an empty
// range.
template <class Visit>
void each_unit(const AttentionProblem& problem, const Visit& visit) {
  for (int64_t b = 0; b < problem.batch; ++b) {
    const int64_t rows = (problem.first_query(b + 1) - problem.first_query(b)) * problem.group;
    for (int64_t kv_head = 0; kv_head < problem.num_kv_heads; ++kv_head) {
      const KeyRow keys = problem.keys(b, kv_head);
      for (int64_t first = (ceil_div(rows, kRowTile) - 1) * kRowTile; first >= 0; first -= kRowTile) {
        const AttentionTask unit = {b, kv_head, first, std::min<int64_t>(kRowTile, rows - first), 0, 0};
        int64_t begin = 0, end = keys.length;
        if (!present(problem.args.page_start)) {  // slots are positions
          begin = std::max<int64_t>(0, problem.visible(b, first / problem.group, keys).first);
          end = std::min(end, int64_t{problem.visible(b, (first + unit.rows - 1) / problem.group, keys).last} + 1);
        }
        begin = begin / kKeyTile;
        visit(unit, TileRange{begin, std::max(begin, ceil_div(end, kKeyTile))}, end);
      }
    }
  }
}

struct Plan {
  AttentionTask* tasks;
  int64_t* runs;         // run i is tasks [runs[i], runs[i + 1]), for one thread after the other
  AttentionUnit* units;  // those in several parts
  int64_t num_tasks = 0, num_runs = 0, num_units = 0, num_parts = 0;

  Plan(const AttentionProblem& problem, const Layout& layout, int threads, void* workspace)
      : tasks(static_cast<AttentionTask*>(workspace)),
        runs(reinterpret_cast<int64_t*>(static_cast<char*>(workspace) + layout.runs_at)),
        units(reinterpret_cast<AttentionUnit*>(static_cast<char*>(workspace) + layout.units_at)) {
    const kvasir_attention_args& args = problem.args;
    int64_t total = 0, count = 0;
    each_unit(problem, [&](const AttentionTask&, TileRange tiles, int64_t) {
      total += std::max<int64_t>(1, tiles.end - tiles.begin), ++count;
    });
    if (args.batch_invariant || args.num_splits > 0) {
      const bool apart = !args.batch_invariant || count < most_runs(threads);
      const int64_t max_parts = apart ? layout.max_parts : 0;
      each_unit(problem, [&](const AttentionTask& unit, TileRange tiles, int64_t end_key) {
        // Fixed splits start at multiples of their length.
        constexpr int64_t kFixedTiles = kFixedSplit / kKeyTile;
        if (args.batch_invariant)
          return add_splits(unit, tiles, end_key, tiles.begin / kFixedTiles * kFixedTiles, kFixedTiles, max_parts);
        const int64_t split = std::max<int64_t>(1, ceil_div(tiles.end - tiles.begin, args.num_splits));
        add_splits(unit, tiles, end_key, tiles.begin, split, max_parts);
      });
    } else {
      Line line = {total, threads};
      each_unit(problem,
                [&](const AttentionTask& unit, TileRange tiles, int64_t end_key) { add_from_line(unit, tiles, end_key, line); });
    }
    runs[num_runs] = num_tasks;
  }

 private:
  // Adds tiles [begin, end) of a unit to the current run.
  void add_task(AttentionTask task, int64_t begin, int64_t end, int64_t end_key, int64_t part) {
    task.first_key = begin * kKeyTile;
    task.end_key = std::max(task.first_key, std::min(end * kKeyTile, end_key));
    task.part = part;
    task.unit = num_units;
    tasks[num_tasks++] = task;
  }

  // Notes that the parts from `first` on are those of one unit.
  void add_unit(const AttentionTask& unit, int64_t first) {
    const int64_t count = num_parts - first;
    units[num_units++] = {unit.request, unit.kv_head, unit.first_row, unit.rows, first, count, count};
  }

  // Cuts a unit at origin + i * split, a run for each part, unless that takes more parts than there is room for.
  void add_splits(AttentionTask unit, TileRange tiles, int64_t end_key, int64_t origin, int64_t split, int64_t max_parts) {
    const int64_t parts = ceil_div(tiles.end - origin, split), first_part = num_parts;
    if (parts <= 1 || num_parts + parts > max_parts) {
      runs[num_runs++] = num_tasks;
      return add_task(unit, tiles.begin, tiles.end, end_key, -1);
    }
    for (int64_t i = 0; i < parts; ++i) {
      runs[num_runs++] = num_tasks;
      add_task(unit, std::max(tiles.begin, origin + i * split), std::min(tiles.end, origin + (i + 1) * split), end_key,
               num_parts++);
    }
    add_unit(unit, first_part);
  }

  // Cuts a unit, the next of the line, where runs end.
  void add_from_line(const AttentionTask& unit, TileRange tiles, int64_t end_key, Line& line) {
    const int64_t first = line.tile, last = first + std::max<int64_t>(1, tiles.end - tiles.begin), first_part = num_parts;
    const int64_t shift = tiles.begin - first;
    while (line.tile < last) {
      if (line.tile == line.run_end) {
        runs[num_runs++] = num_tasks;
        line.begin_run();
      }
      const int64_t begin = line.tile, end = std::min(line.run_end, last);
      const bool whole = begin == first && end == last;
      add_task(unit, begin + shift, end + shift, end_key, whole ? -1 : num_parts++);
      line.tile = end;
    }
    if (num_parts > first_part) add_unit(unit, first_part);
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
                            layout.part_stride, args.batch_invariant ? kFixedSplit : 0, context.isa >= Isa::amx};
  const size_t scratch = kernel.scratch_bytes(problem);
  context.pool.parallel_for(plan.num_runs, [&](int64_t index, int thread) {
    void* own = context.pool.scratch(thread, scratch);
    for (int64_t i = plan.runs[index]; i < plan.runs[index + 1]; ++i) {
      const AttentionTask& task = plan.tasks[i];
      kernel.task(run, task, own);
      if (task.part < 0) continue;
      AttentionUnit& unit = plan.units[task.unit];
      if (std::atomic_ref(unit.missing).fetch_sub(1, std::memory_order_acq_rel) == 1) kernel.combine(run, unit, own);
    }
  });
}

}  // namespace kvasir::cpu
