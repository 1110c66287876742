// One task of attention, for one instruction set: an online softmax over tiles of kKeyTile keys with f32 accumulators.
//   tile: fetch rows of K and V -> S = Q K^T -> mask, running max and sum, P -> O = O * alpha + P V
// Wholly visible tiles take no mask; tiles or rows that see nothing are skipped, which is exact: they would change no bit. Scores
// are in base 2 (times log2 e). Units of few rows stream K and V (attention_stream.h), others pack them (attention_gemm.h);
// with AMX, bf16 units of more than a few are multiplied in tiles (attention_amx.h).
// Sources: online softmax (arXiv 1805.02867), FlashAttention-2 (arXiv 2307.08691); ours: one producer for every layout, and
// splits folded in key order.
#pragma once
#include "attention_amx.h"
#include "attention_gemm.h"
#include "attention_scratch.h"
#include "attention_stream.h"
#include "attention_tile.h"

namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE {

constexpr float kLog2e = 1.44269504088896341f;

template <class T>
struct TaskRunner {
  const AttentionRun& run;
  const AttentionProblem& problem;
  const AttentionTask& task;
  const Scratch<T> s;
  const int64_t dim, padded;
  const KeyRow row;
  const bool amx, stream, dot;  // how S is computed (attention_amx.h, attention_stream.h)
  const AmxTiles<T> tiles;

  TaskRunner(const AttentionRun& r, const AttentionTask& t, void* scratch)
      : run(r),
        problem(r.problem),
        task(t),
        s(r.problem, scratch),
        dim(problem.head_dim),
        padded(dim_padded(dim)),
        row(problem.keys(t.request, t.kv_head)),
        amx(AmxTiles<T>::kAvailable && r.amx && t.rows >= kFewestAmxRows && r.fold_every == 0 && dim % kPanel == 0),
        stream(t.rows <= kStreamRows),
        dot(!amx && t.rows <= kDotRows && r.fold_every == 0 && dim % kPanel == 0),
        tiles(dim, t.rows, s.amx) {}

  // ---- rows
  // -----------------------------------------------------------------------------------------------------------------------

  void load_rows() const {
    const kvasir_attention_args& args = problem.args;
    if constexpr (AmxTiles<T>::kAvailable) {
      if (amx) tiles.start();
    }
    const int64_t first_query = problem.first_query(task.request);
    if (dot) memset(s.q, 0, kDotRows * dim * sizeof(float));
    for (int64_t r = 0; r < task.rows; ++r) {
      const int64_t packed = task.first_row + r, i = packed / problem.group,
                    head = task.kv_head * problem.group + packed % problem.group;
      s.visible[r] = problem.visible(task.request, i, row);
      const T* q = static_cast<const T*>(args.q.data) + (first_query + i) * args.q.stride[0] + head * args.q.stride[1];
      if (amx) {
        if constexpr (AmxTiles<T>::kAvailable) tiles.load_query(r, q);
      } else if (dot) {
        for (int64_t d = 0; d < dim; d += kPanel) {
          const Pair pair = load_pair(q + d);
          store(s.q + r * dim + d, pair.first);
          store(s.q + r * dim + d + kLanes, pair.second);
        }
      } else {
        float* to = s.q + r / kBlockRows * kBlockRows * dim + r % kBlockRows;
        for (int64_t d = 0; d < dim; ++d) to[d * kBlockRows] = to_float(q[d]);
      }
    }
    memset(s.zeros, 0, padded * sizeof(T));
  }

  void clear(const Running& state) const {
    memset(state.acc, 0, task.rows * padded * sizeof(float));
    for (int r = 0; r < kRowPad; ++r) state.max[r] = -INFINITY, state.sum[r] = 0.0f;
  }

  // ---- softmax
  // --------------------------------------------------------------------------------------------------------------------

  // Dot products of one row -> probabilities against the new running max; leaves log2 of the rescale factor and the row's sum
  // behind.
  template <bool kPlain>
  void softmax_row(const KeyTile<T>& tile, int64_t r) const {
    constexpr int kVecs = kKeyTile / kLanes;
    const kvasir_attention_args& args = problem.args;
    float* p = s.scores + r * kKeyTile;
    const Visible range = s.visible[r];
    const bool masked = !tile.full || tile.lowest < range.first || tile.highest > range.last;
    Vec t[kVecs], top = splat(-INFINITY);
#pragma GCC unroll 16
    for (int i = 0; i < kVecs; ++i) {
      t[i] = load(p + i * kLanes);
      if constexpr (kPlain) {
        t[i] *= problem.sm_scale * kLog2e;
      } else {
        t[i] *= problem.sm_scale;
        if (args.logits_soft_cap != 0.0f) t[i] = args.logits_soft_cap * tanh(t[i] / args.logits_soft_cap);
        t[i] *= kLog2e;
        if (present(args.log_weight)) t[i] += load(tile.log_weight + i * kLanes);
      }
    }
    if (masked) {
#pragma GCC unroll 16
      for (int i = 0; i < kVecs; ++i) {
        const VecInt position = load_raw<VecInt>(tile.position + i * kLanes);
        t[i] = select((position >= range.first) & (position <= range.last), t[i], splat(-INFINITY));
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kVecs; ++i) top = maximum(top, t[i]);
    const float before = s.running.max[r], highest = reduce_max(top), now = highest > before ? highest : before;
    if (now == -INFINITY) {
      memset(p, 0, kKeyTile * sizeof(float));
      s.delta[r] = s.row_sum[r] = 0.0f;
      return;
    }
    Vec sum = {};
#pragma GCC unroll 16
    for (int i = 0; i < kVecs; ++i) {
      const Vec e = exp2(t[i] - now);
      store(p + i * kLanes, e);
      sum += e;
    }
    s.running.max[r] = now;
    s.delta[r] = before - now;
    s.row_sum[r] = reduce_add(sum);
  }
  void softmax(const KeyTile<T>& tile, int64_t begin, int64_t end) const {
    if (problem.args.logits_soft_cap == 0.0f && !present(problem.args.log_weight)) {
      for (int64_t r = begin; r < end; ++r) softmax_row<true>(tile, r);
    } else {
      for (int64_t r = begin; r < end; ++r) softmax_row<false>(tile, r);
    }
  }
  // alpha = 2^delta and the running sums of rows [begin, end), kLanes rows at a time.
  void rescale(int64_t begin, int64_t end) const {
    for (int64_t r = begin; r < end; r += kLanes) {
      const Vec alpha = exp2(load(s.delta + r));
      store(s.alpha + r, alpha);
      const Vec sum = fmadd(load(s.running.sum + r), alpha, load(s.row_sum + r));
      if (r + kLanes <= end) {
        store(s.running.sum + r, sum);
      } else {
        store_first(s.running.sum + r, sum, static_cast<int>(end - r));
      }
    }
  }

  // ---- tiles
  // ----------------------------------------------------------------------------------------------------------------------

  void packed_tile(const KeyTile<T>& tile, const T* const* k_rows, const KeyTile<T>& next) const {
    // Visible ranges rise with the row: rows that see nothing of the tile are a head and a tail.
    int64_t begin = 0, end = task.rows;
    while (begin < end && s.visible[begin].last < tile.lowest) ++begin;
    while (end > begin && s.visible[end - 1].first > tile.highest) --end;
    if (begin == end) return;
    begin -= begin % kBlockRows;
    pack_keys(k_rows, next.k_rows, dim, s.packed_k);
    pack_values(tile.v_rows, next.v_rows, dim, s.packed_v);
    for (int64_t r = begin; r < end; r += kBlockRows) {
      const int rows = static_cast<int>(end - r < kBlockRows ? end - r : kBlockRows);
      for (int j = 0; j < kKeyTile; j += kPanel) {
        multiply_rows<kBlockRows, 1>(rows, s.q + r * dim, s.packed_k + j * dim, dim, s.scores + r * kKeyTile + j, kKeyTile,
                                     nullptr);
      }
      softmax(tile, r, r + rows);
    }
    rescale(begin, end);
    for (int64_t d = 0; d < dim; d += kPanel) {
      for (int64_t r = begin; r < end; r += kBlockRows) {
        const int rows = static_cast<int>(end - r < kBlockRows ? end - r : kBlockRows);
        multiply_rows<1, kKeyTile>(rows, s.scores + r * kKeyTile, s.packed_v + d * kKeyTile, kKeyTile,
                                   s.running.acc + r * padded + d, padded, s.alpha + r);
      }
    }
  }

  // Rows [r, r + kRows), or as many of them as are asked for, whose dot products are there.
  template <int kRows = kBlockRows>
  void stream_rows(const KeyTile<T>& tile, Prefetch<T>& next, int64_t r, int64_t rows) const {
    if constexpr (kRows > 1) {
      if (rows < kRows) return stream_rows<kRows - 1>(tile, next, r, rows);
    }
    float* scores = s.scores + r * kKeyTile;
    if (!dot) stream_scores<T, kRows>(s.q + r * dim, s.keys, padded / kLaneElements<T>, dim, next, scores);
    softmax(tile, r, r + kRows);
    rescale(r, r + kRows);
    float* const acc = s.running.acc + r * padded;
    if (kLineByLine<T> && dot) {
      stream_all_values<T, kRows, true>(scores, tile.v_rows, dim, next, acc, padded, s.alpha + r);
    } else {
      stream_all_values<T, kRows, false>(scores, tile.v_rows, dim, next, acc, padded, s.alpha + r);
    }
  }
  // Dot products of rows from r on, kDotBlock of them or the power of 2 that holds the rest; q has rows of zeros behind.
  template <int kRows = 1>
  void dot_rows(const T* const* k_rows, Prefetch<T>& next, int64_t r) const {
    if constexpr (kRows < kDotBlock) {
      if (task.rows - r > kRows) return dot_rows<2 * kRows>(k_rows, next, r);
    }
    dot_scores<T, kRows>(s.q + r * dim, k_rows, dim, next, s.scores + r * kKeyTile);
  }
  void stream_tile(const KeyTile<T>& tile, const T* const* k_rows, const KeyTile<T>& next_tile) const {
    const int64_t blocks = (task.rows + kBlockRows - 1) / kBlockRows;
    Prefetch<T> next(next_tile, dim, (dot ? 0 : kTransposeWork / 2) + task.rows + blocks);
    if (dot) {
      if (kLineByLine<T>) next.none();
      for (int64_t r = 0; r < task.rows; r += kDotBlock) dot_rows(k_rows, next, r);
    } else {
      transpose_keys(k_rows, dim, next, s.keys, padded / kLaneElements<T>);
    }
    for (int64_t r = 0; r < task.rows; r += kBlockRows) {
      stream_rows(tile, next, r, task.rows - r < kBlockRows ? task.rows - r : kBlockRows);
    }
    next.rest();
  }

  // Prefetches go on during softmax, in shares as large as those of a product.
  void amx_tile(const KeyTile<T>& tile, const T* const* k_rows, const KeyTile<T>& next_tile) const {
    if constexpr (AmxTiles<T>::kAvailable) {
      Prefetch<T> next(next_tile, dim, tiles.line_work());
      tiles.multiply_keys(k_rows, next, s.scores);
      for (int64_t r = 0; r < task.rows; ++r) {
        softmax(tile, r, r + 1);
        tiles.share(next);
      }
      rescale(0, task.rows);
      for (int64_t r = 0; r < task.rows; ++r) {
        tiles.load_probabilities(r, s.scores + r * kKeyTile, s.alpha[r]);
        tiles.share(next);
      }
      tiles.multiply_values(tile.v_rows, next);
      next.rest();
    }
  }

  void execute() const {
    load_rows();
    const Visible any = {s.visible[0].first, s.visible[task.rows - 1].last};
    const TileProducer<T> producer{problem, row, task.kv_head, any, s.zeros};
    int current = 0;
    producer.fill(s.tiles[0], task.first_key, task.end_key);
    if (stream) Prefetch<T>(s.tiles[0], dim, 1).rest();
    clear(s.running);
    if (run.fold_every > 0) clear(s.folded);
    for (int64_t slot = task.first_key; slot < task.end_key; slot += kKeyTile) {
      if (run.fold_every > 0 && slot > task.first_key && slot % run.fold_every == 0) fold_running();
      KeyTile<T>& tile = s.tiles[current];
      KeyTile<T>& next = s.tiles[1 - current];
      producer.fill(next, slot + kKeyTile, task.end_key);
      current = 1 - current;
      if (tile.lowest > tile.highest) continue;
      const T* const* k_rows = tile.k_rows;
      if (present(problem.args.k_inv_freq)) {
        rotate_keys(problem, tile, s.staged, s.rotated);
        k_rows = s.rotated;
      }
      if (amx) {
        amx_tile(tile, k_rows, next);
      } else if (stream) {
        stream_tile(tile, k_rows, next);
      } else {
        packed_tile(tile, k_rows, next);
      }
    }
    if constexpr (AmxTiles<T>::kAvailable) {
      if (amx) tiles.finish(s.running.acc, padded);
    }
    if (run.fold_every > 0) fold_running();
    const Running& result = run.fold_every > 0 ? s.folded : s.running;
    if (task.part >= 0) {
      float* part = run.parts + task.part * run.part_stride;
      memcpy(part, result.max, task.rows * sizeof(float));
      memcpy(part + task.rows, result.sum, task.rows * sizeof(float));
      memcpy(part + 2 * task.rows, result.acc, task.rows * padded * sizeof(float));
    } else {
      finish_rows(problem, task.request, task.kv_head, task.first_row, task.rows, result);
    }
  }

  void fold_running() const {
    fold_part(s.folded, s.running.max, s.running.sum, s.running.acc, task.rows, padded);
    clear(s.running);
  }

  // ---- partials and output
  // ----------------------------------------------------------------------------------------------------------

  // The merge operator, row by row; the earlier keys are always on the left.
  static void fold_part(const Running& into, const float* max, const float* sum, const float* acc, int64_t rows, int64_t padded) {
    for (int64_t r = 0; r < rows; ++r) {
      if (max[r] == -INFINITY) continue;
      SoftmaxState<Base2> state;
      state.max = into.max[r], state.sum = into.sum[r];
      SoftmaxState<Base2> part;
      part.max = max[r], part.sum = sum[r];
      const MergeFactors factors = state.merge(part);
      into.max[r] = state.max, into.sum[r] = state.sum;
      for (int64_t d = 0; d < padded; d += kLanes) {
        float* to = into.acc + r * padded + d;
        store(to, fmadd(load(to), splat(factors.mine), load(acc + r * padded + d) * factors.theirs));
      }
    }
  }

  // Sinks join the denominator, then out = acc / sum and lse; rows that saw no key give 0 and -inf.
  static void finish_rows(const AttentionProblem& problem, int64_t request, int64_t kv_head, int64_t first_row, int64_t rows,
                          const Running& state) {
    const kvasir_attention_args& args = problem.args;
    const int64_t first_query = problem.first_query(request), dim = problem.head_dim, padded = dim_padded(dim);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t query = first_query + (first_row + r) / problem.group,
                    head = kv_head * problem.group + (first_row + r) % problem.group;
      SoftmaxState<Base2> row;
      row.max = state.max[r], row.sum = state.sum[r];
      float scale = 0.0f;
      if (!row.empty()) {
        float mine = 1.0f;
        if (present(args.sink)) {
          SoftmaxState<Base2> sink;
          sink.max = float_at(args.sink, head) * kLog2e;
          sink.sum = sink.max == -INFINITY ? 0.0f : 1.0f;
          mine = row.merge(sink).mine;
        }
        scale = mine / row.sum;
      }
      if (present(args.lse)) {
        static_cast<float*>(args.lse.data)[query * args.lse.stride[0] + head * args.lse.stride[1]] = row.lse();
      }
      const int64_t at = query * args.out.stride[0] + head * args.out.stride[1];
      const float* acc = state.acc + r * padded;
      if (args.out.dtype == KVASIR_F32) {
        write_row(acc, scale, dim, static_cast<float*>(args.out.data) + at);
      } else {
        write_row(acc, scale, dim, static_cast<T*>(args.out.data) + at);
      }
    }
  }
  template <class Out>
  static void write_row(const float* acc, float scale, int64_t dim, Out* out) {
    for (int64_t d = 0; d < dim; d += kPanel) {
      float values[kPanel];
      unpair<T>(Pair{load(acc + d) * scale, load(acc + d + kLanes) * scale}, values);
      for (int64_t i = 0; i < kPanel && d + i < dim; i += kLanes) {
        if (d + i + kLanes <= dim) {
          store(out + d + i, load(values + i));
        } else {
          store_first(out + d + i, load(values + i), static_cast<int>(dim - d - i));
        }
      }
    }
  }
};

template <class T>
size_t scratch_bytes(const AttentionProblem& problem) {
  return Scratch<T>(problem, nullptr).bytes;
}

template <class T>
void run_task(const AttentionRun& run, const AttentionTask& task, void* scratch) {
  TaskRunner<T>(run, task, scratch).execute();
}

// Folds a unit's partials in key order and writes its rows.
template <class T>
void combine_unit(const AttentionRun& run, const AttentionUnit& unit, void* scratch) {
  const Scratch<T> s(run.problem, scratch);
  const int64_t padded = dim_padded(run.problem.head_dim);
  memset(s.folded.acc, 0, unit.rows * padded * sizeof(float));
  for (int64_t r = 0; r < unit.rows; ++r) s.folded.max[r] = -INFINITY, s.folded.sum[r] = 0.0f;
  for (int64_t i = 0; i < unit.count; ++i) {
    const float* part = run.parts + (unit.first_part + i) * run.part_stride;
    TaskRunner<T>::fold_part(s.folded, part, part + unit.rows, part + 2 * unit.rows, unit.rows, padded);
  }
  TaskRunner<T>::finish_rows(run.problem, unit.request, unit.kv_head, unit.first_row, unit.rows, s.folded);
}

template <class T>
constexpr AttentionKernel kAttention = {scratch_bytes<T>, run_task<T>, combine_unit<T>};

}  // namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE
