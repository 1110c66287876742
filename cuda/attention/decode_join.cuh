// What a decode CTA does with a finished accumulator: the output row, or a partial and, for the last CTA to bring one, the merge.
//
// A partial is kept as it is, acc [kRows, head_dim] f32 with (max, sum) a row, in the slot that stream_k.h gives the piece. Who
// brings a partial counts itself in; the last one merges, in the order of the workers, so that the bits do not depend on who that
// is, and nobody waits. Many pieces are merged as a tree of kFan neighbours a level, so that no CTA reads more than kFan partials
// in a row; what a level merges has slots of its own. Counters wrap to zero with the last arrival.
#pragma once
#include "../../native/core/merge.h"
#include "../common/mma.cuh"
#include "decode_work.cuh"

namespace kvasir::cuda {

// Children of a node of the tree: fewer where a partial is large, for reading it takes longer than one more level.
template <class Shape>
inline constexpr int kFan = slots_per_worker(Shape::kRows) == 3 ? 16 : 4;

// The rows of an item: packed row -> query and head.
struct ItemRows {
  const Request& request;
  int kv_head, row_begin, rows;  // of the block
};

// A finished row's piece of four columns: normalised, sink in the denominator, rounded, written.
template <typename T, class Shape>
__device__ __forceinline__ void write_output(const AttentionParams& p, const ItemRows& item, int row, int piece,
                                             SoftmaxState<Base2> state, float4 acc) {
  const int packed = item.row_begin + row, query = p.group.div(packed);
  const int head = item.kv_head * static_cast<int>(p.group.divisor) + p.group.mod(packed);
  const bool some = !state.empty();
  float factor = 1.f;
  if (p.sink != nullptr && some) {
    SoftmaxState<Base2> sink;
    sink.max = p.sink[head] * kLog2E;
    sink.sum = 1.f;
    factor = state.merge(sink).mine;
  }
  factor = some ? factor / state.sum : 0.f;
  acc = some ? make_float4(acc.x * factor, acc.y * factor, acc.z * factor, acc.w * factor) : make_float4(0.f, 0.f, 0.f, 0.f);
  const int64_t token = item.request.qo_begin + query;
  if (piece == 0 && p.lse != nullptr) p.lse[token * p.lse_token + head * p.lse_head] = state.lse();
  *reinterpret_cast<uint2*>(p.out + token * p.out_token + head * p.out_head + piece * 8) =
      make_uint2(pack2<T>(acc.x, acc.y), pack2<T>(acc.z, acc.w));
}

// A normalised partial for the combine kernel (p.num_splits parts a row).
template <class Shape>
__device__ __forceinline__ void write_split(const AttentionParams& p, const ItemRows& item, int split, int row, int piece,
                                            const SoftmaxState<Base2>& state, float4 acc) {
  const int packed = item.row_begin + row, query = p.group.div(packed);
  const int head = item.kv_head * static_cast<int>(p.group.divisor) + p.group.mod(packed);
  const int64_t at = (split * p.part_rows + partial_row(p, item.request, query)) * p.num_qo_heads + head;
  if (piece == 0) p.part_lse[at] = state.lse();
  if (state.empty()) return;
  const float factor = 1.f / state.sum;
  *reinterpret_cast<float4*>(p.part_out + at * Shape::kHeadDim + piece * 4) =
      make_float4(acc.x * factor, acc.y * factor, acc.z * factor, acc.w * factor);
}

// Counts this CTA in; true for the last of `count`. All threads call it: what they stored before is visible to the last one, and
// what the others stored is visible to all of its threads. Barriers: all arrive and wait, twice.
__device__ __forceinline__ bool arrive_last(unsigned* counter, int count, bool& shared_last) {
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(counter), "r"(static_cast<unsigned>(count - 1))
                 : "memory");
    shared_last = before == static_cast<unsigned>(count - 1);
  }
  __syncthreads();
  return shared_last;
}

template <class Shape>
__device__ __forceinline__ float* slot_acc(const AttentionParams& p, int slot) {
  return p.part_out + static_cast<int64_t>(slot) * Shape::kRows * Shape::kHeadDim;
}
template <class Shape>
__device__ __forceinline__ float2* slot_state(const AttentionParams& p, int slot) {
  return reinterpret_cast<float2*>(p.part_lse) + static_cast<int64_t>(slot) * Shape::kRows;
}

template <class Shape>
__device__ __forceinline__ void write_partial(const AttentionParams& p, int slot, int row, int piece,
                                              const SoftmaxState<Base2>& state, float4 acc) {
  if (piece == 0) slot_state<Shape>(p, slot)[row] = make_float2(state.max, state.sum);
  *reinterpret_cast<float4*>(slot_acc<Shape>(p, slot) + row * Shape::kHeadDim + piece * 4) = acc;
}

// Merges `count` <= kFan partials, slot_of(i) each, and hands every (row, piece of four columns) to `write`. A thread has the
// loads of kRound pieces in flight at once: every round is a trip to the L2 cache.
template <class Shape, class SlotOf, class Write>
__device__ __forceinline__ void merge_slots(const AttentionParams& p, int count, int rows, SlotOf slot_of, Write write) {
  constexpr int kPieces = Shape::kHeadDim / 4, kChildren = kFan<Shape>, kRound = 16 / kChildren;
  for (int first = threadIdx.x; first < rows * kPieces; first += kRound * Shape::kThreads) {
    float2 state[kRound][kChildren];
    float4 part[kRound][kChildren];
#pragma unroll
    for (int r = 0; r < kRound; ++r) {
      const int x = first + r * Shape::kThreads, row = x / kPieces, piece = x - row * kPieces;
#pragma unroll
      for (int i = 0; i < kChildren; ++i) {
        state[r][i] = make_float2(-INFINITY, 0.f);
        part[r][i] = make_float4(0.f, 0.f, 0.f, 0.f);
        if (i < count && row < rows) {
          const int slot = slot_of(i);
          state[r][i] = __ldcg(slot_state<Shape>(p, slot) + row);
          part[r][i] = __ldcg(reinterpret_cast<const float4*>(slot_acc<Shape>(p, slot) + row * Shape::kHeadDim + piece * 4));
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRound; ++r) {
      const int x = first + r * Shape::kThreads, row = x / kPieces, piece = x - row * kPieces;
      if (row >= rows) break;
      SoftmaxState<Base2> joint;
#pragma unroll
      for (int i = 0; i < kChildren; ++i) joint.max = fmaxf(joint.max, state[r][i].x);
      const float base = joint.empty() ? 0.f : joint.max;  // empty parts weigh 2^-inf = 0
      float4 acc = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
      for (int i = 0; i < kChildren; ++i) {
        const float weight = exp2_approx(state[r][i].x - base);
        const float4& theirs = part[r][i];
        joint.sum += weight * state[r][i].y;
        acc.x += weight * theirs.x, acc.y += weight * theirs.y, acc.z += weight * theirs.z, acc.w += weight * theirs.w;
      }
      write(row, piece, joint, acc);
    }
  }
}

// Who joins an item of several pieces: workers [first, first + count).
struct Joiners {
  int first, count;

  static __device__ __noinline__ Joiners of(const Work& work, int64_t item_begin, int length) {
    const int first = stream_k_owner(work.total, work.workers, item_begin);
    return {first, stream_k_owner(work.total, work.workers, item_begin + length - 1) - first + 1};
  }
};

// After this CTA's partial of an item was written: whoever completes a node of the tree merges it, and the root is the output.
template <typename T, class Shape>
__device__ __forceinline__ void join_item(const AttentionParams& p, bool& shared_last, const Joiners& j, const ItemRows& item) {
  const int worker = blockIdx.x, slots = gridDim.x;
  // Results and counters of level `level`'s nodes, by their first worker; below it are the pieces.
  const auto node = [&](int level, int at) { return (2 + level) * slots + at; };
#pragma unroll 1
  for (int level = 0, width = 1;; ++level, width *= kFan<Shape>) {  // width: workers of a child
    const int in_node = (worker - j.first) / (width * kFan<Shape>)*(width * kFan<Shape>), begin = j.first + in_node;
    const int children = min(kFan<Shape>, (j.count - in_node + width - 1) / width);
    unsigned* const counter = p.arrivals + (level == 0 ? stream_k_slot(j.first, begin) : node(level - 1, begin));
    if (!arrive_last(counter, children, shared_last)) return;
    const bool root = width * kFan<Shape> >= j.count;
    merge_slots<Shape>(
        p, children, item.rows,
        [&](int i) { return level == 0 ? stream_k_slot(j.first, begin + i) : node(level - 1, begin + i * width); },
        [&](int row, int piece, const SoftmaxState<Base2>& state, float4 acc) {
          if (root) {
            write_output<T, Shape>(p, item, row, piece, state, acc);
          } else {
            write_partial<Shape>(p, node(level, begin), row, piece, state, acc);
          }
        });
    if (root) return;
  }
}

}  // namespace kvasir::cuda
