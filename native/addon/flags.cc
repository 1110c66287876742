#include "flags.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "any_stream.h"
#include "failure.h"

namespace kvasir::addon {

namespace {

constexpr size_t kSlabBytes = size_t{64} << 10;
constexpr size_t kPage = 4096;
constexpr size_t kCellBytes = 64;  // a cache line each: pollers of one flag do not disturb another's
constexpr uint64_t kPoison = UINT64_MAX / 2;

}  // namespace

bool Fence::passed(uint64_t number) const { return known.load(std::memory_order_relaxed) >= number || cell->value() >= number; }

bool Uses::passed() const {
  return std::all_of(uses_.begin(), uses_.end(), [](const auto& use) { return use.first->passed(use.second); });
}

void Uses::request() {
  for (const auto& [fence, number] : uses_) {
    if (fence->written < number && fence->stream != nullptr && !fence->passed(number)) fence->stream->write_fence();
  }
}

FlagCell::~FlagCell() {
  if (!poisoned_) slabs_.retire(address_, std::move(uses));
}

void FlagCell::raise(uint64_t value) {
  const std::atomic_ref counter(*address_);
  uint64_t seen = counter.load(std::memory_order_relaxed);
  while (seen < value && !counter.compare_exchange_weak(seen, value, std::memory_order_release, std::memory_order_relaxed)) {
  }
}

void FlagCell::poison() {
  poisoned_ = true;
  store(kPoison);
}

FlagSlabs::~FlagSlabs() {
  // Letting go of uses lets go of fences, whose cells retire in their turn.
  waiting_.clear();
  while (!retired_.empty()) std::exchange(retired_, {}).clear();
  for (void* slab : slabs_) std::free(slab);
}

std::shared_ptr<FlagCell> FlagSlabs::create() {
  std::vector<Retired> retired;
  {
    const std::lock_guard lock(lock_);
    retired.swap(retired_);
  }
  for (Retired& cell : retired) {
    cell.second.request();
    waiting_.push_back(std::move(cell));
  }
  while (!waiting_.empty() && waiting_.front().second.passed()) {
    free_.push_back(waiting_.front().first);
    waiting_.pop_front();
  }
  if (free_.empty()) grow();
  auto cell = std::make_shared<FlagCell>(*this, free_.back());
  free_.pop_back();
  return cell;
}

void FlagSlabs::retire(uint64_t* address, Uses uses) {
  const std::lock_guard lock(lock_);
  retired_.emplace_back(address, std::move(uses));
}

void FlagSlabs::grow() {
  void* slab = std::aligned_alloc(kPage, kSlabBytes);
  if (slab == nullptr) throw std::bad_alloc();
  std::memset(slab, 0, kSlabBytes);
  const std::lock_guard lock(lock_);
  for (const Attached& attached : attached_) {
    kvasir_error err{};
    const kvasir_status status = attached.backend->host_register(attached.devices.front(), slab, kSlabBytes, &err);
    if (status == KVASIR_OK) continue;
    for (const Attached* done = attached_.data(); done != &attached; ++done)
      done->backend->host_unregister(done->devices.front(), slab);
    std::free(slab);
    throw Failure(status, err.text);
  }
  slabs_.push_back(slab);
  for (size_t at = 0; at < kSlabBytes; at += kCellBytes)
    free_.push_back(reinterpret_cast<uint64_t*>(static_cast<char*>(slab) + at));
}

void FlagSlabs::attach(const kvasir_backend* backend, kvasir_device* device) {
  const std::lock_guard lock(lock_);
  for (Attached& attached : attached_) {
    if (attached.backend != backend) continue;
    attached.devices.push_back(device);
    return;
  }
  for (size_t i = 0; i < slabs_.size(); ++i) {
    kvasir_error err{};
    const kvasir_status status = backend->host_register(device, slabs_[i], kSlabBytes, &err);
    if (status == KVASIR_OK) continue;
    while (i-- > 0) backend->host_unregister(device, slabs_[i]);
    throw Failure(status, err.text);
  }
  attached_.push_back({backend, {device}});
}

void FlagSlabs::detach(const kvasir_backend* backend, kvasir_device* device) {
  const std::lock_guard lock(lock_);
  for (auto attached = attached_.begin(); attached != attached_.end(); ++attached) {
    if (attached->backend != backend) continue;
    std::erase(attached->devices, device);
    if (!attached->devices.empty()) return;
    for (void* slab : slabs_) backend->host_unregister(device, slab);
    attached_.erase(attached);
    return;
  }
}

}  // namespace kvasir::addon
