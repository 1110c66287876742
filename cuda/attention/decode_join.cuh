// What a decode CTA does with a finished accumulator: the output row, or a partial that is merged with others.
//
// A partial is kept as it is: acc [kRows, head_dim] f32, and (max, sum) of the row with every 32 columns. All workers of an item
// but the one that merges them post theirs in the mailbox. Every word of the mailbox is its own message: between launches all of
// them hold kNothing, a worker stores its partial, whoever merges reads until no word is kNothing, and stores kNothing again. So
// a partial costs one trip to the L2 cache and one from it, with no fence, no counter and no barrier between CTAs.
//
// The pieces of an item are merged by the last of its workers when its own run is done, in the order of the workers; many pieces
// as a tree of kFan neighbours a level, each node by the last worker below it, so that no CTA reads more than kFan partials in a
// row. A CTA waits only for CTAs before it in the grid, which started before it: no order in which CTAs come to run, and no other
// kernel beside this one, can make the wait endless. The code runs once, cold, at the end of everything: hence neighbours' posts
// are a constant apart, and nothing is divided.
#pragma once
#include "../../native/core/merge.h"
#include "../common/mma.cuh"
#include "decode_work.cuh"

namespace kvasir::cuda {

// Children of a node of the tree: fewer where a partial is large, for reading it takes longer than one more level.
template <class Shape>
inline constexpr int kFanBits = fan_bits(Shape::kRows);
template <class Shape>
inline constexpr int kFan = 1 << kFanBits<Shape>;

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
  const int64_t at = (split * p.part_rows + item.request.qo_begin + query) * p.num_qo_heads + head;
  if (piece == 0) p.part_lse[at] = state.lse();
  if (state.empty()) return;
  const float factor = 1.f / state.sum;
  *reinterpret_cast<float4*>(p.part_out + at * Shape::kHeadDim + piece * 4) =
      make_float4(acc.x * factor, acc.y * factor, acc.z * factor, acc.w * factor);
}

// A word of the mailbox that holds nothing: a NaN that no arithmetic yields.
inline constexpr unsigned kNothing = 0xffffffffu;

__device__ __forceinline__ void post(float4* to, float4 x) {
  asm volatile("st.relaxed.gpu.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(x.x), "f"(x.y), "f"(x.z), "f"(x.w)
               : "memory");
}
__device__ __forceinline__ void post(float2* to, float2 x) {
  asm volatile("st.relaxed.gpu.global.v2.f32 [%0], {%1, %2};" ::"l"(to), "f"(x.x), "f"(x.y) : "memory");
}
__device__ __forceinline__ float4 look(const float4* at) {
  float4 x;
  asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "l"(at)
               : "memory");
  return x;
}
__device__ __forceinline__ float2 look(const float2* at) {
  float2 x;
  asm volatile("ld.relaxed.gpu.global.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "l"(at) : "memory");
  return x;
}
__device__ __forceinline__ bool arrived(float4 acc, float2 state) {
  const unsigned a = max(max(__float_as_uint(acc.x), __float_as_uint(acc.y)), __float_as_uint(acc.z)),
                 b = max(max(__float_as_uint(acc.w), __float_as_uint(state.x)), __float_as_uint(state.y));
  return max(a, b) != kNothing;
}

// Where a partial's piece of four columns lies: x = row * head_dim / 4 + piece.
template <class Shape>
struct Partial {
  static constexpr int kBytes = partial_bytes(Shape::kRows, Shape::kHeadDim), kStates = Shape::kRows * Shape::kHeadDim * 4;

  static __device__ float4* acc(char* partial, int x) { return reinterpret_cast<float4*>(partial) + x; }
  static __device__ float2* state(char* partial, int x) { return reinterpret_cast<float2*>(partial + kStates) + x / 8; }

  static __device__ void store(char* partial, int x, float2 state_of_row, float4 piece) {
    post(acc(partial, x), piece);
    if (x % 8 == 0) post(state(partial, x), state_of_row);
  }
};

// Merges `count` <= kMost posts that follow one another from `posts` on, once they have arrived, and this CTA's own partial
// behind them; hands every (x, state, four columns) to `write`, and leaves nothing in the posts. A thread has the loads of kRound
// pieces in flight at once: every round is a trip to the L2 cache.
template <class Shape, int kMost, class Write>
__device__ __forceinline__ void merge_posts(char* posts, int count, char* own, int rows, Write write) {
  using P = Partial<Shape>;
  constexpr int kRound = kFan<Shape> == 16 ? 1 : 16 / (kMost + 1);
  const int pieces = rows * (Shape::kHeadDim / 4);
  const float nothing = __uint_as_float(kNothing);
#pragma unroll 1
  for (int base = threadIdx.x; base - static_cast<int>(threadIdx.x) < pieces; base += kRound * Shape::kThreads) {
    float2 state[kRound][kMost + 1];
    float4 part[kRound][kMost + 1];
    unsigned missing = 0;
#pragma unroll
    for (int r = 0; r < kRound; ++r) {
      const int x = base + r * Shape::kThreads;
      if (x < pieces) missing |= ((1u << count) - 1) << (r * kMost);
#pragma unroll
      for (int i = 0; i <= kMost; ++i) state[r][i] = make_float2(-INFINITY, 0.f), part[r][i] = make_float4(0.f, 0.f, 0.f, 0.f);
      if (x < pieces) part[r][kMost] = look(P::acc(own, x)), state[r][kMost] = look(P::state(own, x));
    }
    const unsigned posted = missing;
    while (missing != 0) {
#pragma unroll
      for (int r = 0; r < kRound; ++r)
#pragma unroll
        for (int i = 0; i < kMost; ++i) {
          if ((missing >> (r * kMost + i) & 1) == 0) continue;
          const int x = base + r * Shape::kThreads;
          part[r][i] = look(P::acc(posts + i * P::kBytes, x));
          state[r][i] = look(P::state(posts + i * P::kBytes, x));
        }
#pragma unroll
      for (int r = 0; r < kRound; ++r)
#pragma unroll
        for (int i = 0; i < kMost; ++i)
          if (arrived(part[r][i], state[r][i])) missing &= ~(1u << (r * kMost + i));
    }
    __syncwarp();  // the eight lanes that share a state have read it
#pragma unroll
    for (int r = 0; r < kRound; ++r)
#pragma unroll
      for (int i = 0; i < kMost; ++i) {
        if ((posted >> (r * kMost + i) & 1) != 0)
          P::store(posts + i * P::kBytes, base + r * Shape::kThreads, make_float2(nothing, nothing),
                   make_float4(nothing, nothing, nothing, nothing));
      }
#pragma unroll
    for (int r = 0; r < kRound; ++r) {
      SoftmaxState<Base2> joint;
#pragma unroll
      for (int i = 0; i <= kMost; ++i) joint.max = fmaxf(joint.max, state[r][i].x);
      const float least = joint.empty() ? 0.f : joint.max;  // empty parts weigh 2^-inf = 0
      float4 acc = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
      for (int i = 0; i <= kMost; ++i) {
        const float weight = exp2_approx(state[r][i].x - least);
        const float4& theirs = part[r][i];
        joint.sum += weight * state[r][i].y;
        acc.x += weight * theirs.x, acc.y += weight * theirs.y, acc.z += weight * theirs.z, acc.w += weight * theirs.w;
      }
      if (base + r * Shape::kThreads < pieces) write(base + r * Shape::kThreads, joint, acc);
    }
    __syncwarp();  // what `write` stored is visible to the lanes that share it
  }
}

// What a CTA may have to merge when its run is done: of the item that began before it. No CTA has two of them.
struct JoinDuty {
  Request request;
  int kv_head, row_begin, rows;
  StreamKTeam team;
  bool merges;  // there is a duty
};

// Merges the nodes of the item's tree that end with this CTA; the root is the output.
template <typename T, class Shape>
__device__ __forceinline__ void join_pieces(const AttentionParams& p, const JoinDuty& duty) {
  constexpr int kPieces = Shape::kHeadDim / 4;
  const StreamKTeam team = duty.team;
  const ItemRows item = {duty.request, duty.kv_head, duty.row_begin, duty.rows};
  const auto post_at = [&](int post) { return p.mailbox + post * Partial<Shape>::kBytes; };
  char* const own = p.own + blockIdx.x * Partial<Shape>::kBytes;
#pragma unroll 1
  for (int level = 0;; ++level) {
    const StreamKNode node = stream_k_node(team, gridDim.x, level, kFanBits<Shape>);
    char* const to = node.merges_on ? own : post_at(node.post);
    const auto write = [&](int x, const SoftmaxState<Base2>& state, float4 acc) {
      if (node.root) {
        write_output<T, Shape>(p, item, x / kPieces, x % kPieces, state, acc);
      } else {
        Partial<Shape>::store(to, x, make_float2(state.max, state.sum), acc);
      }
    };
    constexpr int kMost = kFan<Shape> - 1, kFew = kMost / 2;  // few posts take fewer instructions, all of them cold
    if (kFew >= 4 && node.posted <= kFew) {
      merge_posts<Shape, kFew>(post_at(node.first_post), node.posted, own, duty.rows, write);
    } else {
      merge_posts<Shape, kMost>(post_at(node.first_post), node.posted, own, duty.rows, write);
    }
    if (node.root || !node.merges_on) return;
  }
}

}  // namespace kvasir::cuda
