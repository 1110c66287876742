#include "page_copy.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "../../native/core/page_runs.h"
#include "../../native/core/status.h"
#include "page_copy_kernel.h"
#include "pinned.h"

namespace kvasir::cuda {

namespace {

constexpr const char* kDoing = "a copy of pages";
constexpr size_t kBatch = 4096;  // copies of one call: much longer lists have crashed drivers

// Without a measurement (lib/transfer_paths.ts): what lies together decides. Small runs drown in the cost of a copy each.
constexpr size_t kSmallRun = size_t{64} << 10, kLargeRun = size_t{512} << 10;

enum class Place { device, pinned, pageable };

// One side of the copy: where its pages lie, and the bytes between the first and the last of them.
struct Side {
  const char* begin;
  size_t extent;
  Place place;
  bool in_one_piece;  // pinned by one registration: no copy can cross the border of two
};

Side look_at(const void* base, const int32_t* slots, size_t stride, size_t offset, const kvasir_page_copy& copy) {
  const auto [low, high] = std::minmax_element(slots, slots + copy.count);
  Side side{};
  side.begin = static_cast<const char*>(base) + static_cast<size_t>(*low) * stride + offset;
  side.extent = static_cast<size_t>(*high - *low) * stride + copy.bytes;
  const size_t piece = pinned_piece(side.begin, side.extent);
  side.in_one_piece = piece == side.extent;
  if (piece != 0) {
    side.place = is_pinned(side.begin, side.extent) ? Place::pinned : Place::pageable;
    return side;
  }
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, side.begin) != cudaSuccess) cudaGetLastError();
  const bool on_device = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  side.place = on_device ? Place::device : Place::pageable;
  side.in_one_piece = side.in_one_piece || on_device;
  return side;
}

struct Sides {
  Side to, from;
  bool on_host() const { return to.place != Place::device || from.place != Place::device; }
  bool pageable() const { return to.place == Place::pageable || from.place == Place::pageable; }
};

// Calls visit(to, from, bytes) for every copy that the engines do: runs, cut where one registration of host memory ends.
template <class Visit>
bool each_copy(const kvasir_page_copy& copy, const Sides& sides, const Visit& visit) {
  return each_run(copy, [&](char* to, const char* from, size_t bytes) {
    while (bytes > 0) {
      size_t piece = bytes;
      if (!sides.to.in_one_piece) piece = std::min(piece, pinned_piece(to, bytes));
      if (!sides.from.in_one_piece) piece = std::min(piece, pinned_piece(from, bytes));
      if (piece == 0) return visit(to, from, bytes);  // unpinned meanwhile: the driver says so
      if (!visit(to, from, piece)) return false;
      to += piece;
      from += piece;
      bytes -= piece;
    }
    return true;
  });
}

cudaError_t copy_by_dma(cudaStream_t stream, const kvasir_page_copy& copy, const Sides& sides) {
  cudaError_t result = cudaSuccess;
  each_copy(copy, sides, [&](char* to, const char* from, size_t bytes) {
    result = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream);
    return result == cudaSuccess;
  });
  return result;
}

#if CUDART_VERSION >= 12080

struct Batch {
  std::vector<void*> to;
  std::vector<void*> from;
  std::vector<size_t> bytes;
};

// CUDA 12.8 has another argument for the index of what failed than CUDA 13; the compiler picks by the function's type.
template <class To, class From, class Bytes>
cudaError_t call(cudaError_t (*function)(To, From, Bytes, size_t, cudaMemcpyAttributes*, size_t*, size_t, size_t*, cudaStream_t),
                 Batch& batch, cudaMemcpyAttributes& attributes, cudaStream_t stream) {
  size_t first = 0, failed = 0;
  return function((To)batch.to.data(), (From)batch.from.data(), (Bytes)batch.bytes.data(), batch.to.size(), &attributes, &first,
                  1, &failed, stream);
}
template <class To, class From, class Bytes>
cudaError_t call(cudaError_t (*function)(To, From, Bytes, size_t, cudaMemcpyAttributes*, size_t*, size_t, cudaStream_t),
                 Batch& batch, cudaMemcpyAttributes& attributes, cudaStream_t stream) {
  size_t first = 0;
  return function((To)batch.to.data(), (From)batch.from.data(), (Bytes)batch.bytes.data(), batch.to.size(), &attributes, &first,
                  1, stream);
}

cudaError_t flush(cudaStream_t stream, Batch& batch) {
  if (batch.to.empty()) return cudaSuccess;
  // In the order of the stream: an earlier event may be what makes the source hold its bytes.
  cudaMemcpyAttributes attributes{};
  attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  attributes.flags = cudaMemcpyFlagPreferOverlapWithCompute;
  const cudaError_t result = call(cudaMemcpyBatchAsync, batch, attributes, stream);
  batch.to.clear();
  batch.from.clear();
  batch.bytes.clear();
  return result;
}

cudaError_t copy_by_batch(cudaStream_t stream, const kvasir_page_copy& copy, const Sides& sides) {
  static std::atomic<bool> missing{false};  // the driver is older than the toolkit
  if (missing.load(std::memory_order_relaxed)) return copy_by_dma(stream, copy, sides);
  Batch batch;
  const size_t room = std::min(kBatch, static_cast<size_t>(copy.count));
  batch.to.reserve(room);
  batch.from.reserve(room);
  batch.bytes.reserve(room);
  cudaError_t result = cudaSuccess;
  each_copy(copy, sides, [&](char* to, const char* from, size_t bytes) {
    batch.to.push_back(to);
    batch.from.push_back(const_cast<char*>(from));
    batch.bytes.push_back(bytes);
    if (batch.to.size() == kBatch) result = flush(stream, batch);
    return result == cudaSuccess;
  });
  if (result == cudaSuccess) result = flush(stream, batch);
  if (result != cudaErrorCallRequiresNewerDriver && result != cudaErrorNotSupported) return result;
  cudaGetLastError();
  missing.store(true, std::memory_order_relaxed);
  return copy_by_dma(stream, copy, sides);
}

#else

cudaError_t copy_by_batch(cudaStream_t stream, const kvasir_page_copy& copy, const Sides& sides) {
  return copy_by_dma(stream, copy, sides);
}

#endif

// Whether kernels know the memory by its host address.
bool is_mapped(const Side& side) {
  if (side.place == Place::device) return true;
  void* address = nullptr;
  if (cudaHostGetDevicePointer(&address, const_cast<char*>(side.begin), 0) == cudaSuccess) return address == side.begin;
  cudaGetLastError();
  return false;
}

int32_t chosen_path(const kvasir_page_copy& copy, const Sides& sides) {
  if (copy.path != KVASIR_COPY_AUTO) return copy.path;
  if (!sides.on_host()) return KVASIR_COPY_DMA;
  int64_t runs = 0;
  each_run(copy, [&](char*, const char*, size_t) { return ++runs != 0; });
  const size_t run = copy.bytes * static_cast<size_t>(copy.count) / static_cast<size_t>(runs);
  if (run >= kLargeRun) return KVASIR_COPY_DMA;
  return run >= kSmallRun || !is_mapped(sides.to) || !is_mapped(sides.from) ? KVASIR_COPY_BATCH : KVASIR_COPY_KERNEL;
}

// Pageable memory passes through the stream's staging, in its order and without holding the caller up.
kvasir_status copy_by_staging(kvasir_stream& stream, const kvasir_page_copy& copy, const Sides& sides, kvasir_error* err) {
  kvasir_status status = KVASIR_OK;
  each_run(copy, [&](char* to, const char* from, size_t bytes) {
    status =
        sides.to.place == Place::device ? stream.copy_in(to, from, bytes, false, err) : stream.copy_out(to, from, bytes, err);
    return status == KVASIR_OK;
  });
  return status;
}

}  // namespace

kvasir_status copy_pages(kvasir_stream& stream, const kvasir_page_copy& copy, kvasir_error* err) {
  kvasir_device& device = stream.device();
  if (const kvasir_status status = device.enter(err); status != KVASIR_OK) return status;
  if (stream.recording())
    return fail(err, KVASIR_UNSUPPORTED, "A copy of pages cannot be part of a program; do it before or after the recording.");
  if (copy.count <= 0 || copy.bytes == 0) return KVASIR_OK;
  const Sides sides{look_at(copy.to, copy.to_slots, copy.to_stride, copy.to_offset, copy),
                    look_at(copy.from, copy.from_slots, copy.from_stride, copy.from_offset, copy)};
  if (sides.pageable()) {
    if (sides.to.place != Place::device && sides.from.place != Place::device)
      return fail(err, KVASIR_UNSUPPORTED, "Both sides of a copy of pages lie in host memory; use a stream of the CPU device.");
    if (copy.path == KVASIR_COPY_AUTO || copy.path == KVASIR_COPY_DMA) return copy_by_staging(stream, copy, sides, err);
    return fail(err, KVASIR_UNSUPPORTED,
                "The batch and kernel paths need pinned host memory, and these pages are not pinned; allocate them with "
                "allocateHostTensor(cpu, dtype, shape, { pinnedFor: device }), or take the dma path.");
  }
  switch (chosen_path(copy, sides)) {
    case KVASIR_COPY_BATCH: return device.check(copy_by_batch(stream.handle(), copy, sides), kDoing, err);
    case KVASIR_COPY_KERNEL:
      if (!is_mapped(sides.to) || !is_mapped(sides.from))
        return fail(err, KVASIR_UNSUPPORTED, "%s does not map host memory at its own address; take the batch path.",
                    device.limits().name);
      return device.check(launch_page_copy(stream.handle(), device.limits(), copy), kDoing, err);
    default: return device.check(copy_by_dma(stream.handle(), copy, sides), kDoing, err);
  }
}

}  // namespace kvasir::cuda
