#include "page_copy_kernel.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "page_copy.cuh"

namespace kvasir::cuda {

namespace {

constexpr PageKernelTuning kTuning{8, 96 << 10, 8 << 10};
constexpr int kLag = 2;  // stores that may still read the ring while loads run ahead
constexpr int kVectorThreads = 512, kVectorUnroll = 8;
constexpr uint32_t kVectorPiece = 4096;  // of a warp: kVectorUnroll vectors a lane

#if CUDART_VERSION >= 12010
constexpr bool kHasLargeParameters = true;
#else
constexpr bool kHasLargeParameters = false;
#endif

// The widest vector that every address and length is a multiple of.
uint32_t common_alignment(const kvasir_page_copy& copy) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(copy.to) | reinterpret_cast<uintptr_t>(copy.from) | copy.to_stride |
                        copy.from_stride | copy.to_offset | copy.from_offset | copy.bytes | 16;
  return static_cast<uint32_t>(bits & -bits);
}

PageCopyShape shape_of(const kvasir_page_copy& copy, int32_t pages, uint32_t piece_bytes) {
  PageCopyShape shape{};
  shape.to = static_cast<char*>(copy.to) + copy.to_offset;
  shape.from = static_cast<const char*>(copy.from) + copy.from_offset;
  shape.to_stride = copy.to_stride;
  shape.from_stride = copy.from_stride;
  shape.pieces = static_cast<uint32_t>((copy.bytes + piece_bytes - 1) / piece_bytes);
  shape.units = shape.pieces * static_cast<uint32_t>(pages);
  shape.piece_bytes = piece_bytes;
  shape.last_bytes = static_cast<uint32_t>(copy.bytes - uint64_t{shape.pieces - 1} * piece_bytes);
  return shape;
}

// Ahead of what else runs: its few CTAs take the next multiprocessors that come free, rather than wait behind a large grid.
template <class... Parameters, class... Arguments>
cudaError_t launch_first(void (*kernel)(Parameters...), uint32_t ctas, int threads, int shared, cudaStream_t stream,
                         Arguments&&... arguments) {
  int least = 0, greatest = 0;
  const cudaError_t result = cudaDeviceGetStreamPriorityRange(&least, &greatest);
  if (result != cudaSuccess) return result;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributePriority;
  attribute.val.priority = greatest;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(ctas);
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

template <class Launch>
cudaError_t launch_bulk(cudaStream_t stream, const Launch& launch) {
  const auto kernel = bulk_page_copy_kernel<kLag, Launch>;
  const int stages = std::min<int>(kMostStages, kTuning.ring_bytes / static_cast<int>(launch.shape.piece_bytes));
  const int shared = stages * static_cast<int>(launch.shape.piece_bytes);
  const cudaError_t result = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kTuning.ring_bytes);
  if (result != cudaSuccess) return result;
  return launch_first(kernel, std::min<uint32_t>(kTuning.ctas, launch.shape.units), 32, shared, stream, launch, stages);
}

template <class Vector, class Launch>
cudaError_t launch_vector(cudaStream_t stream, const Launch& launch) {
  const uint32_t most = (launch.shape.units + kVectorThreads / 32 - 1) / (kVectorThreads / 32);
  return launch_first(vector_page_copy_kernel<Vector, kVectorUnroll, Launch>, std::min<uint32_t>(2 * kTuning.ctas, most),
                      kVectorThreads, 0, stream, launch);
}

template <class Launch>
cudaError_t launch_some(cudaStream_t stream, const Limits& limits, const kvasir_page_copy& copy, int32_t first, int32_t pages) {
  const uint32_t alignment = common_alignment(copy);
  const bool bulk = limits.cc_major >= 9 && alignment == 16;
  const uint64_t most = bulk ? kTuning.piece_bytes : kVectorPiece;
  Launch launch;
  launch.shape = shape_of(copy, pages, static_cast<uint32_t>(std::min<uint64_t>(most, copy.bytes)));
  std::memcpy(launch.to_slots, copy.to_slots + first, static_cast<size_t>(pages) * sizeof(int32_t));
  std::memcpy(launch.from_slots, copy.from_slots + first, static_cast<size_t>(pages) * sizeof(int32_t));
  if (bulk) return launch_bulk(stream, launch);
  switch (alignment) {
    case 16: return launch_vector<uint4>(stream, launch);
    case 8: return launch_vector<uint2>(stream, launch);
    case 4: return launch_vector<uint32_t>(stream, launch);
    case 2: return launch_vector<uint16_t>(stream, launch);
    default: return launch_vector<uint8_t>(stream, launch);
  }
}

}  // namespace

cudaError_t launch_page_copy(cudaStream_t stream, const Limits& limits, const kvasir_page_copy& copy) {
  const uint64_t pieces = (copy.bytes + kVectorPiece - 1) / kVectorPiece;
  const uint64_t fit = std::max<uint64_t>(1, (uint64_t{1} << 30) / pieces);
  for (int32_t first = 0; first < copy.count;) {
    const bool large = kHasLargeParameters && copy.count - first > SmallPageCopy::pages;
    const uint64_t room = std::min<uint64_t>(large ? LargePageCopy::pages : SmallPageCopy::pages, fit);
    const int32_t pages = static_cast<int32_t>(std::min<uint64_t>(room, static_cast<uint64_t>(copy.count - first)));
    cudaError_t result;
    if constexpr (kHasLargeParameters)
      result = large ? launch_some<LargePageCopy>(stream, limits, copy, first, pages)
                     : launch_some<SmallPageCopy>(stream, limits, copy, first, pages);
    else
      result = launch_some<SmallPageCopy>(stream, limits, copy, first, pages);
    if (result != cudaSuccess) return result;
    first += pages;
  }
  return cudaSuccess;
}

}  // namespace kvasir::cuda
