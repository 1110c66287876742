// Decode attention: few query tokens a request against a long cache, bound by the one reading of K and V. q, out [total_q,
// num_qo_heads, D], k and v ragged or paged, bf16 or f16, f32 accumulators. LeanAttention (arXiv 2405.10480): the key tiles of
// all requests and heads are one line, every CTA reads an equal run of it, partial results are merged (Flash-Decoding's
// operator). Ours: a CTA finds its run on the device; each warp keeps a pipeline of its own across the ends of items; operands
// are swapped, S' = K Q' and O' = V' P', so that query rows are the 8-wide side of a product and a group of 1..8 heads fills one.
//
// A tile is kWarps * kKeys keys, unit w of it warp w's. In flight are kStages - 1 units of 4 * kKeys * D bytes a warp: for d128
// on sm_90 4 warps * 2 * 16 KB = 128 KB an SM, several times what 3 TB/s and 1 us of latency ask for (23 KB). Many query rows are
// shared by two warps a unit, which read the same keys. Phases:
//   1. lengths -> the run (Walk::start). Few requests: while the kernel before still runs; then the CTA waits for its turn, all
//      for thread 0, and reads the first units ahead (decode_ahead.cuh); then for that kernel's end. Many: after its end
//   2. every warp starts kStages - 1 units. What was planned early is looked up again meanwhile; barrier: all arrive and wait
//   3. per unit and warp: wait for it; syncwarp (it is visible, the stage of the unit before is free); start another, the first
//      half waiting for the second to have left the stage; S', softmax, O'
//   4. at the end of a piece warps leave (max, sum, O) in the stage just read        barrier: all arrive, all wait
//   5. all threads merge the warps in order: the output, or a partial                barrier: all arrive, all wait
//   6. the CTA that has the end of an item merges its partials, waiting for CTAs before it (decode_join.cuh)
// Loads of the next pieces are in flight during 4 and 5. One CTA fills an SM (two at d64), so that a dependent launch never puts
// two of the next grid's CTAs on one SM while another has none. Short lines are bound by latency and by code that runs once,
// cold: divisions are made by the host, and code is not unrolled where it runs once.
#pragma once
#include "../common/dependent_launch.cuh"
#include "../common/tensor_map.h"
#include "decode_join.cuh"
#include "decode_load.cuh"
#include "decode_operands.cuh"

namespace kvasir::cuda {

template <class Shape>
struct DecodeShared {
  float max[Shape::kWarps][Shape::kRows], sum[Shape::kWarps][Shape::kRows];
  UnitNotes<Shape> notes;
  WorkShared<Shape::kThreads> work;
  JoinDuty duty;
};

// Dynamic shared memory: stages, Q where it is not in registers, barriers, bookkeeping.
template <class Shape>
struct DecodeLayout {
  static constexpr int kQ = Shape::kWarps * Shape::kWarpBytes;
  static constexpr int kBarriers = kQ + (Shape::kQInSmem ? Shape::kRows * Shape::kHeadDim * 2 : 0);
  static constexpr int kShared = kBarriers + Shape::kWarps * Shape::kHalves * Shape::kStages * 8;
  static constexpr int kBytes = kShared + static_cast<int>(sizeof(DecodeShared<Shape>));
};

// While there is nothing else to do: the kernel's parameters to the constant cache, and what every CTA needs of the tables to the
// L2 cache, where other kernels' writes go too. Each that is missed later is a trip to the next memory behind.
__device__ __forceinline__ void fetch_ahead(const AttentionParams& p) {
  constexpr int kLine = 64;
  const char* const from = reinterpret_cast<const char*>(&p);
#pragma unroll
  for (int at = 0; at < static_cast<int>(sizeof p); at += kLine) asm volatile("" ::"r"(*reinterpret_cast<const int*>(from + at)));
  if (p.paged() && threadIdx.x == 0) {
    const int entry = blockIdx.x * 32;  // a line of 128 bytes each
    if (entry < p.num_entries) prefetch_l2(p.page_indices + entry);
    prefetch_l2(p.kv_len);
    prefetch_l2(p.row_start);
    prefetch_l2(p.page_offsets);
  }
}

// Column of a row's accumulator as it lies in shared memory: rows that one store instruction writes differ in their banks.
__device__ __forceinline__ int staggered(int row, int column) { return column ^ ((row >> 1 & 3) * 8); }

template <typename T, class Shape, class Source, bool kExtra, Loads kLoads>
__device__ __forceinline__ void decode_cta(const AttentionParams& p, const DecodeMaps& maps) {
  constexpr int kD = Shape::kHeadDim, kKeys = Shape::kKeys, kStages = Shape::kStages, kWarps = Shape::kWarps;
  constexpr int kKeyTiles = kKeys / 16, kRowTiles = Shape::kWarpRows / 8, kSteps = kD / 16;
  using Sw = Swizzle<kD>;
  using Layout = DecodeLayout<Shape>;
  using Loader = LoaderOf<kLoads, Shape, Source, kExtra>;
  extern __shared__ __align__(1024) char smem[];
  DecodeShared<Shape>& s = *reinterpret_cast<DecodeShared<Shape>*>(smem + Layout::kShared);
  const int t = threadIdx.x, lane = t & 31, row8 = lane >> 2, pair = lane & 3;
  const int warp = (t >> 5) % kWarps, half = (t >> 5) / kWarps, first_row = half * Shape::kWarpRows;
  char* const stages = smem + warp * Shape::kWarpBytes;  // this warp's, or its and its other half's, [kStages][K | V][kKeys, D]
  const uint32_t stages_smem = smem_address(stages);
  const uint32_t k_lane = stages_smem + Sw::offset(lane_row_a(lane), lane_chunk_a(lane));
  const uint32_t v_lane = stages_smem + Shape::kHalfBytes + Sw::offset(lane_row_b(lane), lane_chunk_b(lane));
  const float scale = kExtra ? 1.f : p.scale_log2;

  Loader loader;
  loader.init(p, maps, stages_smem, smem_address(smem + Layout::kBarriers), warp, half);
  // Those who read what one of them wrote to a unit: the warp, or all threads, for two halves have no barrier of their own.
  const auto meet = [] {
    if constexpr (Shape::kHalves == 1) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  };
  if (t == 0) s.duty.merges = false;
  const auto item_of = [&](const Walk<Shape>& w) {
    const int begin = w.block() * Shape::kRows, group = static_cast<int>(p.group.divisor);
    return ItemRows{w.request, w.kv_head(p), begin, min(Shape::kRows, w.request.qo_len * group - begin)};
  };
  // Where the tables are looked up again and the first rows of Q arrive: in the stage that the first units leave free.
  constexpr int kLookStride = Shape::kHalves * 32;
  constexpr int kLookBytes = (kRequestWords + Loader::kWords) * kLookStride * 4;
  static_assert(kLookBytes + Shape::kHalves * QueryRows<Shape>::kCopyBytes <= Shape::kStageBytes);
  const int free_at = (kStages - 1) * Shape::kStageBytes, look_at = free_at + (half * 32 + lane) * 4;
  const int q_at = free_at + kLookBytes + half * QueryRows<Shape>::kCopyBytes;
  Walk<Shape> walk;
  Work work = {};
  QueryRows<Shape> q;
  int split = 0;
  fetch_ahead(p);
  // Few requests are planned while the kernel before this one ends, and their first units are started as soon as it has. If it
  // changed a length or a table, which is looked up again meanwhile, all of that is done once more.
  const int entry = min(t, entries_of(p) - 1);
  bool early = kLoads == Loads::bulk && p.num_splits == 0 && entries_of(p) <= Shape::kThreads;
  if (!early) {
    release_dependents();
    wait_for_previous_kernel();
  }
  for (;;) {
    const RequestWords words = entry_words(p, entry, EarlyTableRead{early});
    if (p.num_splits > 0) {
      split = blockIdx.x % p.num_splits;
      const int index = blockIdx.x / p.num_splits;
      walk.start_fixed(p, p.kv_heads.div(index), p.kv_heads.mod(index), split);
    } else {
      work = walk.start(p, s.work, blockIdx.x, early, entry_of_words(p, entry, words));
    }
    loader.walk = walk;
    const auto tables = loader.enter_piece(p, warp, lane, EarlyTableRead{early});
    const int unit = loader.unit, units = loader.rest, to_l2 = early ? min(units, kUnitsAhead) : 0;
    if (early) {
      if (t == 0) loader.turn.take(p, blockIdx.x, work.left);
      __syncthreads();  // all threads: the turn has come
    }
    int started = 0;
#pragma unroll 1  // cold code is dear: once through it for every unit
    for (int i = -to_l2; i < kStages - 1; ++i) {
      if (early && i == 0) {
        if (half == 0) loader.rewind(to_l2);
        wait_for_previous_kernel();
      }
      if (half == 0) started += loader.start(p, maps, s.notes, max(i, 0), warp, lane, i < 0) & (i >= 0);
      // Behind the first copy, which need not wait for it, but not behind all: the memory answers in order.
      if (early && i == 0) {
        const CopiedTable<kLookStride> copy = {stages_smem + look_at};
        entry_words(p, entry, copy);
        loader.look_up(p, walk.request, loader.kv_head, unit, units, lane, copy.behind(kRequestWords));
        if (units > 0) q.copy(p, item_of(walk), stages_smem + q_at, first_row);
        cp_async_commit();
      }
    }
    if (!early) {
      if (units > 0) q.load(p, item_of(walk), smem + Layout::kQ, first_row);
      break;
    }
    cp_async_wait<0>();
    __syncwarp();  // the rows are visible
    if (units > 0) q.take(stages + q_at, smem + Layout::kQ, first_row);
    const SeenTable<kLookStride> seen = {reinterpret_cast<const int*>(stages + look_at)};
    const bool same = (entry_words(p, entry, seen) == words) &
                      (loader.look_up(p, walk.request, walk.kv_head(p), unit, units, lane, seen.behind(kRequestWords)) == tables);
    loader.fence();
    if (__syncthreads_and(same)) break;
    loader.drain(started);
    early = false;
  }
  if (walk.done()) return;

  int stage = 0;              // of the unit to read next
  uint32_t parity = 0;        // of the stage's phase
  int64_t line = work.begin;  // the line's tile at which the piece begins
  while (!walk.done()) {
    const Request request = walk.request;
    const ItemRows item = item_of(walk);
    const int kv_head = item.kv_head, row_begin = item.row_begin;
    const int first_position = request.q_start + p.group.div(row_begin);
    const int last_position = request.q_start + p.group.div(row_begin + item.rows - 1);
    const int count = walk.count(), first_unit = walk.first_tile() * kWarps + warp;
    const bool whole = walk.fixed ? p.num_splits <= 1 : walk.whole();
    if (!whole && !walk.fixed && walk.skip > 0 && t == 0) {
      const StreamKTeam team = team_of(work, blockIdx.x, line - walk.skip, walk.span.length());
      s.duty = {request, kv_head, row_begin, item.rows, team, team.merges(kFanBits<Shape>)};
    }
    line += walk.tiles;

    float o[kSteps][kRowTiles][4], row_max[kRowTiles][2], row_sum[kRowTiles][2];
#pragma unroll
    for (int n = 0; n < kRowTiles; ++n) {
      row_max[n][0] = row_max[n][1] = -INFINITY;
      row_sum[n][0] = row_sum[n][1] = 0.f;
#pragma unroll
      for (int d = 0; d < kSteps; ++d) o[d][n][0] = o[d][n][1] = o[d][n][2] = o[d][n][3] = 0.f;
    }

    int read = stage;  // the stage that was read last
    for (int i = 0; i < count; ++i) {
      loader.wait(stage, parity);
      __syncwarp();  // the unit is visible to the warp, and the warp is done with the one before
      if (half == 0) {
        const int free = stage == 0 ? kStages - 1 : stage - 1;
        if constexpr (Shape::kHalves > 1) loader.wait_released(free, stage == 0 ? parity ^ 1 : parity);
        loader.start(p, maps, s.notes, free, warp, lane);
      }
      const int unit = first_unit + i * kWarps;
      const uint32_t at = stage * Shape::kStageBytes;
      const bool all = !kExtra && (unit + 1) * kKeys <= request.kv_len &&
                       (!p.causal || (unit + 1) * kKeys - 1 <= first_position) &&
                       (p.window_left < 0 || unit * kKeys >= last_position - p.window_left);
      if constexpr (Loader::kClears) {  // what lies behind the last key must not meet a zero probability
        const int end =
            Shape::kHalves == 1 ? (unit + 1) * kKeys : (walk.first_tile() + i + 1) * Shape::kTileKeys;  // of those who meet
        if (end > request.kv_len || (kExtra && p.page_len != nullptr)) {
          for (int x = lane; x < kKeys * Sw::kChunks && half == 0; x += 32) {
            const int row = x / Sw::kChunks, g = row / kPageGroup;
            const int fill = kExtra ? s.notes.fill[warp][stage][g] : request.kv_len - unit * kKeys - g * kPageGroup;
            if (row % kPageGroup < fill) continue;
#pragma unroll
            for (int segment = 0; segment < Sw::kSegments; ++segment) {
              *reinterpret_cast<uint4*>(stages + at + Shape::kHalfBytes + segment * kKeys * Sw::kRowBytes + x * 16) = uint4{};
            }
          }
          loader.fence();
          meet();  // cleared rows are visible
        }
      }
      if constexpr (kExtra) {
        if (p.k_inv_freq != nullptr) {
          if (half == 0) rotate_keys<T>(p, s.notes, stages + at, warp, stage, lane);
          loader.fence();
          meet();  // rotated keys are visible
        }
      }

      // S' = K Q'. A single tile has its even and odd steps apart: two chains of products instead of one.
      constexpr bool kTwoChains = kKeyTiles * kRowTiles == 1;
      float score[kKeyTiles][kRowTiles][4], odd[kTwoChains ? 4 : 1];
#pragma unroll
      for (int m = 0; m < kKeyTiles; ++m)
#pragma unroll
        for (int n = 0; n < kRowTiles; ++n) score[m][n][0] = score[m][n][1] = score[m][n][2] = score[m][n][3] = 0.f;
      if constexpr (kTwoChains) odd[0] = odd[1] = odd[2] = odd[3] = 0.f;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        uint32_t b[kRowTiles][2];
        q.at(step, b);
#pragma unroll
        for (int m = 0; m < kKeyTiles; ++m) {
          uint32_t a[4];
          ldmatrix_x4(a, Sw::template at_step<kKeys>(k_lane + at, step) + m * 16 * Sw::kRowBytes);
#pragma unroll
          for (int n = 0; n < kRowTiles; ++n) {
            if constexpr (kTwoChains) {
              mma_16816<T>(step % 2 == 0 ? score[0][0] : odd, a, b[0][0], b[0][1]);
            } else {
              mma_16816<T>(score[m][n], a, b[n][0], b[n][1]);
            }
          }
        }
      }
      if constexpr (kTwoChains) {
#pragma unroll
        for (int e = 0; e < 4; ++e) score[0][0][e] += odd[e];
      }

      // Element e of a tile: key row8 + 8 (e / 2), row 2 pair + e % 2.
      if (!all) {
#pragma unroll
        for (int n = 0; n < kRowTiles; ++n)
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const int position = request.q_start + p.group.div(row_begin + first_row + n * 8 + pair * 2 + r);
            const int last = p.causal ? position : INT32_MAX, first = p.window_left >= 0 ? position - p.window_left : INT32_MIN;
#pragma unroll
            for (int m = 0; m < kKeyTiles; ++m)
#pragma unroll
              for (int half = 0; half < 2; ++half) {
                float& x = score[m][n][2 * half + r];
                const int in_group = half * 8 + row8, key = unit * kKeys + m * 16 + in_group;
                if constexpr (kExtra) {
                  const int place = s.notes.start[warp][stage][m] + in_group;
                  const bool visible = in_group < s.notes.fill[warp][stage][m] && place <= last && place >= first;
                  float bias = 0.f;
                  if (visible && p.log_weight != nullptr) {
                    int64_t index = request.kv_begin + static_cast<int64_t>(key);
                    if constexpr (Source::kPaged) {
                      const int page_group = key / kPageGroup, entry = p.page_groups.div(page_group);
                      index = (request.kv_begin + static_cast<int64_t>(entry)) * p.page_size +
                              p.page_groups.mod(page_group) * kPageGroup + in_group;
                    }
                    bias = kLog2E * p.log_weight[index * p.log_weight_token + kv_head * p.log_weight_head];
                  }
                  x = p.soft_cap > 0.f ? p.soft_cap * tanh_accurate(x * p.sm_scale / p.soft_cap) * kLog2E : x * p.scale_log2;
                  x = visible ? x + bias : -INFINITY;
                } else {
                  x = key < request.kv_len && key <= last && key >= first ? x : -INFINITY;
                }
              }
          }
      }

      // Whether some row's maximum moves, one vote tells; it seldom does. The maximum itself is exact, so that a key that takes
      // all has probability 1 and its row of V comes out as it is.
      bool grows = false;
      float top[kRowTiles][2];
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          top[n][r] = fmaxf(score[0][n][r], score[0][n][2 + r]);
#pragma unroll
          for (int m = 1; m < kKeyTiles; ++m) top[n][r] = fmaxf(top[n][r], fmaxf(score[m][n][r], score[m][n][2 + r]));
          grows |= top[n][r] > row_max[n][r];
        }
      if (__any_sync(0xffffffffu, grows)) {
#pragma unroll
        for (int n = 0; n < kRowTiles; ++n)
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const float most = column_max(top[n][r]), old = row_max[n][r];
            const bool moves = most > old;
            const float alpha = moves ? exp2_approx(__fmul_rn(old - most, scale)) : 1.f;
            row_max[n][r] = moves ? most : old;
            row_sum[n][r] *= alpha;
#pragma unroll
            for (int d = 0; d < kSteps; ++d) o[d][n][r] *= alpha, o[d][n][2 + r] *= alpha;
          }
      }
      uint32_t prob[kKeyTiles][kRowTiles][2];  // P' as B fragments (k = key, n = row)
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n) {
        float offset[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) offset[r] = row_max[n][r] == -INFINITY ? 0.f : __fmul_rn(row_max[n][r], scale);
#pragma unroll
        for (int m = 0; m < kKeyTiles; ++m) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const float x = exp2_approx(__fmaf_rn(score[m][n][2 * half], scale, -offset[0]));
            const float y = exp2_approx(__fmaf_rn(score[m][n][2 * half + 1], scale, -offset[1]));
            row_sum[n][0] += x, row_sum[n][1] += y;
            prob[m][n][half] = movmatrix_transposed(pack2<T>(x, y));
          }
        }
      }

      // O' += V' P'
#pragma unroll
      for (int m = 0; m < kKeyTiles; ++m) {
#pragma unroll
        for (int d = 0; d < kSteps; ++d) {
          uint32_t a[4];
          ldmatrix_x4_transposed(a, Sw::template at_step<kKeys>(v_lane + at, d) + m * 16 * Sw::kRowBytes);
#pragma unroll
          for (int n = 0; n < kRowTiles; ++n) mma_16816<T>(o[d][n], a, prob[m][n][0], prob[m][n][1]);
        }
      }
      if constexpr (Shape::kHalves > 1) {
        __syncwarp();  // the warp is done with the unit
        if (half != 0 && lane == 0) loader.release(stage);
      }
      read = stage;
      if (++stage == kStages) stage = 0, parity ^= 1;
    }

    constexpr int kPieces = kD / 4;
    if (count > 0) {
      meet();  // the stage read last, which takes the state, is done with
      float* const mine = reinterpret_cast<float*>(stages + read * Shape::kStageBytes);
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int row = first_row + n * 8 + pair * 2 + r;
          const float sum = column_sum(row_sum[n][r]);
          if (row8 == 0) s.max[warp][row] = row_max[n][r] * scale, s.sum[warp][row] = sum;
#pragma unroll
          for (int d = 0; d < kSteps; ++d)
#pragma unroll
            for (int half = 0; half < 2; ++half)
              mine[row * kD + staggered(row, d * 16 + half * 8 + row8)] = o[d][n][2 * half + r];
        }
      if (loader.goes_on()) loader.fence();
      __syncthreads();  // all threads: every warp's state is visible
    }
    const bool kept = !walk.fixed && walk.skip > 0 && s.duty.merges;  // by this CTA, for itself
    char* const partial = (kept ? p.own : p.mailbox) + blockIdx.x * Partial<Shape>::kBytes;
    for (int x = t; x < item.rows * kPieces; x += Shape::kThreads) {
      const int row = x / kPieces, piece = x - row * kPieces;
      SoftmaxState<Base2> state;
      float4 acc = {0.f, 0.f, 0.f, 0.f};
      if (count > 0) {
        const char* from = smem + read * Shape::kStageBytes + (row * kD + staggered(row, piece * 4)) * 4;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) state.max = fmaxf(state.max, s.max[w][row]);
        const float base = state.empty() ? 0.f : state.max;  // empty parts weigh 2^-inf = 0
#pragma unroll
        for (int w = 0; w < kWarps; ++w) {
          const float weight = exp2_approx(s.max[w][row] - base);
          const float4 theirs = *reinterpret_cast<const float4*>(from + w * Shape::kWarpBytes);
          state.sum += weight * s.sum[w][row];
          acc.x += weight * theirs.x, acc.y += weight * theirs.y, acc.z += weight * theirs.z, acc.w += weight * theirs.w;
        }
      }
      if (whole) {
        write_output<T, Shape>(p, item, row, piece, state, acc);
      } else if (walk.fixed) {
        write_split<Shape>(p, item, split, row, piece, state, acc);
      } else {
        Partial<Shape>::store(partial, x, make_float2(state.max, state.sum), acc);
      }
    }
    __syncthreads();  // all threads: the states were read, and their stages may be filled
    walk.next(p);
    if (!walk.done() && walk.count() > 0) q.load(p, item_of(walk), smem + Layout::kQ, first_row);
  }
  loader.drain(0);
  if (s.duty.merges) join_pieces<T, Shape>(p, s.duty);
}

template <typename T, class Shape, class Source, bool kExtra, Loads kLoads>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kResident)
    decode_kernel(const __grid_constant__ AttentionParams p, const __grid_constant__ DecodeMaps maps) {
  if constexpr (kRunsHere<kLoads>) decode_cta<T, Shape, Source, kExtra, kLoads>(p, maps);
}

// The descriptors of K and V for bulk copies, columns in segments of one swizzled row. Paged: (column, row, segment, 16 bytes of
// offset in the page slot, page slot), so that heads may start at any multiple of 16; ragged: (column, token, segment, head).
template <class Shape>
cudaError_t encode_maps(const AttentionParams& p, DecodeMaps& maps) {
  using Sw = Swizzle<Shape::kHeadDim>;
  constexpr uint32_t kColumns = Sw::kChunks * 8;
  constexpr uint64_t kSegments = Sw::kSegments, kSegmentBytes = Sw::kRowBytes;
  const uint32_t rows = p.box_rows, segments = p.box_rows == Shape::kKeys ? Sw::kSegments : 1;
  if (p.paged()) {
    if (p.num_page_slots == 0) return cudaSuccess;
    return encode_tensor_map(&maps.k, {const_cast<char*>(p.pages),
                                       5,
                                       {kColumns, static_cast<uint64_t>(p.page_size), kSegments,
                                        static_cast<uint64_t>(p.page_slot / 16), static_cast<uint64_t>(p.num_page_slots)},
                                       {kSegments * kSegmentBytes, kSegmentBytes, 16, static_cast<uint64_t>(p.page_slot)},
                                       {kColumns, rows, segments, 1, 1}});
  }
  if (p.total_kv == 0) return cudaSuccess;
  const auto ragged = [&](CUtensorMap* map, const char* base, int64_t token, int64_t head) {
    return encode_tensor_map(map,
                             {const_cast<char*>(base),
                              4,
                              {kColumns, static_cast<uint64_t>(p.total_kv), kSegments, static_cast<uint64_t>(p.num_kv_heads)},
                              {static_cast<uint64_t>(token), kSegmentBytes, static_cast<uint64_t>(head)},
                              {kColumns, rows, segments, 1}});
  };
  const cudaError_t status = ragged(&maps.k, p.k, p.k_token, p.k_head);
  return status == cudaSuccess ? ragged(&maps.v, p.v, p.v_token, p.v_head) : status;
}

template <typename T, class Shape, class Source, bool kExtra, Loads kLoads>
cudaError_t launch_decode(const AttentionPlan& plan, cudaStream_t stream) {
  constexpr int kBytes = DecodeLayout<Shape>::kBytes;
  static_assert(kBytes <= Shape::kTile.smem_bytes(Shape::kHeadDim) && kBytes + 1024 <= 228 * 1024 / Shape::kResident);
  const AttentionParams& p = plan.params;
  const auto kernel = decode_kernel<T, Shape, Source, kExtra, kLoads>;
  cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  DecodeMaps maps = {};
  if (status == cudaSuccess && plan.bulk_copies) status = encode_maps<Shape>(p, maps);
  if (status != cudaSuccess) return status;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(p.num_splits > 0 ? p.batch * p.num_kv_heads * p.num_splits : p.slots);
  config.blockDim = dim3(Shape::kThreads);
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = plan.bulk_copies ? 1 : 0;  // sm_90: set up while the kernel before it drains
  return cudaLaunchKernelEx(&config, kernel, p, maps);
}

}  // namespace kvasir::cuda
