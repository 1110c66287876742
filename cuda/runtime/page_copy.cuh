// Copies scattered pages with multiprocessors instead of copy engines: host memory is read and written in place, over the bus.
//
//   page i: bytes from from + from_slots[i] * from_stride to to + to_slots[i] * to_stride
//
// Pages are cut into pieces; piece u of all belongs to page u / pieces and is copied by CTA (or warp) u modulo their number. The
// slots travel with the launch, so that their memory is free when the call returns. Two forms:
//   bulk    sm_90, 16-byte alignment: one thread of each CTA keeps a ring of pieces in shared memory in flight: bulk loads that
//           complete on a barrier of the stage, bulk stores behind them. The bus is full once latency x rate is in flight, some
//           100 KB, so that a few CTAs do it.
//   vector  everywhere: warps with kUnroll vector loads in flight a lane, the vector as wide as the alignment allows.
// Limits: fewer than 2^31 pieces a launch.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "../common/tma.cuh"

namespace kvasir::cuda {

struct PageCopyShape {
  char* to;
  const char* from;
  uint64_t to_stride, from_stride;   // bytes
  uint32_t pieces;                   // of a page
  uint32_t units;                    // pieces of all pages
  uint32_t piece_bytes, last_bytes;  // the last piece of a page may be shorter
};

// The parameters of one launch; kernels take up to 4 KB everywhere and 32 KB from CUDA 12.1 on.
template <int kPages>
struct PageCopyLaunch {
  static constexpr int pages = kPages;
  PageCopyShape shape;
  int32_t to_slots[kPages], from_slots[kPages];
};
using SmallPageCopy = PageCopyLaunch<500>;
using LargePageCopy = PageCopyLaunch<4080>;
static_assert(sizeof(SmallPageCopy) <= 4096 && sizeof(LargePageCopy) + 64 <= 32764);

struct PagePiece {
  char* to;
  const char* from;
  uint32_t bytes;
};

template <class Launch>
__device__ __forceinline__ PagePiece piece_of(const Launch& launch, uint32_t unit) {
  const PageCopyShape& shape = launch.shape;
  const uint32_t page = unit / shape.pieces, piece = unit - page * shape.pieces;
  const uint64_t offset = static_cast<uint64_t>(piece) * shape.piece_bytes;
  return {shape.to + static_cast<uint64_t>(launch.to_slots[page]) * shape.to_stride + offset,
          shape.from + static_cast<uint64_t>(launch.from_slots[page]) * shape.from_stride + offset,
          piece + 1 == shape.pieces ? shape.last_bytes : shape.piece_bytes};
}

inline constexpr int kMostStages = 64;

// One thread: it waits for loads in order, stores each piece, and loads `stages - kLag` pieces ahead; a stage is loaded again
// once the store out of it, kLag stores ago, has read it. Dynamic shared memory: stages * piece_bytes.
template <int kLag, class Launch>
__global__ void __launch_bounds__(32) bulk_page_copy_kernel(const __grid_constant__ Launch launch, int stages) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char ring[];
  __shared__ uint64_t barriers[kMostStages];
  const uint32_t units = launch.shape.units;
  if (threadIdx.x != 0 || blockIdx.x >= units) return;
  const uint32_t ring_at = static_cast<uint32_t>(__cvta_generic_to_shared(ring));
  const uint32_t barriers_at = static_cast<uint32_t>(__cvta_generic_to_shared(barriers));
  for (int s = 0; s < stages; ++s) mbarrier_init(barriers_at + 8 * s, 1);
  fence_async_proxy();

  const uint32_t piece_bytes = launch.shape.piece_bytes;
  uint32_t next = blockIdx.x;  // unit to load
  int load_stage = 0;
  const auto load = [&] {
    const PagePiece piece = piece_of(launch, next);
    const uint32_t barrier = barriers_at + 8 * load_stage;
    mbarrier_expect(barrier, piece.bytes);
    bulk_load(ring_at + load_stage * piece_bytes, piece.from, piece.bytes, barrier);
    next += gridDim.x;
    load_stage = load_stage + 1 == stages ? 0 : load_stage + 1;
  };
  for (int ahead = stages - kLag; ahead > 0 && next < units; --ahead) load();
  int stage = 0;
  uint32_t parity = 0;
  for (uint32_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const PagePiece piece = piece_of(launch, unit);
    mbarrier_wait(barriers_at + 8 * stage, parity);
    fence_async_proxy();
    bulk_store(piece.to, ring_at + stage * piece_bytes, piece.bytes);
    bulk_commit();
    if (next < units) {
      bulk_wait_read<kLag>();
      load();
    }
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
  bulk_wait_all();
#endif
}

// A warp copies a piece; lanes take neighbouring vectors.
template <class Vector, int kUnroll, class Launch>
__global__ void __launch_bounds__(512) vector_page_copy_kernel(const __grid_constant__ Launch launch) {
  const uint32_t lane = threadIdx.x & 31, warps = gridDim.x * (blockDim.x / 32);
  for (uint32_t unit = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; unit < launch.shape.units; unit += warps) {
    const PagePiece piece = piece_of(launch, unit);
    const uint32_t count = piece.bytes / sizeof(Vector);
    const Vector* from = reinterpret_cast<const Vector*>(piece.from);
    Vector* to = reinterpret_cast<Vector*>(piece.to);
    for (uint32_t at = lane; at < count; at += 32 * kUnroll) {
      Vector held[kUnroll];
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        if (at + 32 * i < count) held[i] = __ldcs(from + at + 32 * i);
      }
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        if (at + 32 * i < count) __stcs(to + at + 32 * i, held[i]);
      }
    }
  }
}

}  // namespace kvasir::cuda
