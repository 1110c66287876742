// What a decode CTA does while the kernel before its own still runs: it reads tables that may yet change, and brings the first K
// and V to the L2 cache. Both are safe, for what is written there later is seen all the same; tables are compared afterwards.
//
// Reading ahead must not slow the kernel before. If that is a decode launch, the memory has nothing to do from the time when its
// last copy arrives until partials are merged, the kernel has ended and the next one's first copies are on their way, several
// microseconds. So CTA w of each launch through a mailbox counts itself in, and tells when it has started its last copy; CTA w of
// the next launch waits for that where its run is short: such lines leave multiprocessors idle, on which the next launch is long
// before its time. No launch leaves its number untold, whatever its work. Other kernels are not waited for.
#pragma once
#include "../common/dependent_launch.cuh"
#include "../common/mma.cuh"
#include "params.h"

namespace kvasir::cuda {

inline constexpr int kUnitsAhead = 1;  // that a warp brings to the L2 cache; more are in the way of what is being read

// The turn of a CTA among the launches of its mailbox, kept by one of its threads.
struct DecodeTurn {
  unsigned* told = nullptr;  // null: not taken, or another thread's
  unsigned number = 0;

  // Takes the next number and lets the next kernel start, whose CTA has the number behind; then, for a short run of tiles,
  // returns when the CTA before has told.
  __device__ void take(const AttentionParams& p, int worker, int tiles) {
    constexpr unsigned kNever = 0x7fffffff;  // a condition, so that the number is taken before; it holds all but once in 2^32
    constexpr int kShort = 32, kPatience = 1 << 16;  // it is advice, not order
    unsigned before, now;
    asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(p.turns->begun + worker) : "memory");
    if (before != kNever) release_dependents();
    told = p.turns->read + worker;
    number = before + 1;
    for (int i = tiles < kShort ? 0 : kPatience; i < kPatience; ++i) {
      asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(told) : "memory");
      if (now == before) break;
    }
  }

  // Tells that the CTA, whose warps are about level, has started its last copy; perhaps more than once.
  __device__ void tell() const {
    if (told != nullptr) asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(told), "r"(number) : "memory");
  }
};

// Words of the tables on their way to shared memory, and there: a thread's own lie kStride words apart. Unlike loads into
// registers these are not waited for where a loop ends.
template <int kStride>
struct CopiedTable {
  uint32_t to;
  __device__ int operator()(const int* at, int word) const {
    cp_async_4(to + word * kStride * 4, at, 4);
    return 0;
  }
  __device__ CopiedTable behind(int words) const { return {to + words * kStride * 4}; }
};
template <int kStride>
struct SeenTable {
  const int* from;
  __device__ int operator()(const int*, int word) const { return from[word * kStride]; }
  __device__ SeenTable behind(int words) const { return {from + words * kStride}; }
};

}  // namespace kvasir::cuda
