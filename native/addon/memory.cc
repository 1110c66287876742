#include "memory.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <thread>

#include "device.h"
#include "failure.h"
#include "host_memory.h"

namespace kvasir::addon {

namespace {

constexpr size_t kSmallest = 256;
constexpr size_t kLarge = size_t{1} << 20;
constexpr size_t kLargeStep = size_t{64} << 10;
constexpr size_t kHuge = size_t{16} << 20;
constexpr size_t kHugeStep = size_t{2} << 20;
constexpr int kGlances = 8;  // pending blocks looked at before a free block is sought

size_t round_to(size_t bytes, size_t step) { return (bytes + step - 1) / step * step; }

// Small sizes come in eight classes an octave, so that they are reused; large ones in steps that waste little.
size_t size_class(size_t bytes) {
  if (bytes >= kHuge) return round_to(bytes, kHugeStep);
  if (bytes >= kLarge) return round_to(bytes, kLargeStep);
  return round_to(bytes, std::max(kSmallest, std::bit_floor(bytes) / 8));
}

}  // namespace

void Pool::collect(bool all) {
  int misses = 0;
  for (auto entry = pending_.begin(); entry != pending_.end() && (all || misses < kGlances);) {
    if (entry->second.passed()) {
      free_.emplace(entry->first.bytes, entry->first.data);
      entry = pending_.erase(entry);
    } else {
      ++misses;
      ++entry;
    }
  }
}

bool Pool::find_free(size_t bytes, Block& out) {
  const auto found = free_.lower_bound(bytes);
  if (found == free_.end() || found->first > bytes + bytes / 8) return false;
  out = {found->second, found->first};
  free_.erase(found);
  return true;
}

kvasir_status Pool::allocate(size_t bytes, Block& out, kvasir_error& err) {
  void* data = nullptr;
  const kvasir_status status = device_.backend()->alloc(device_.handle(), bytes, &data, &err);
  if (status != KVASIR_OK) return status;
  blocks_.emplace(data, bytes);
  reserved_ += bytes;
  out = {data, bytes};
  return KVASIR_OK;
}

void Pool::wait_for_pending() {
  // Streams advance without JavaScript, so this ends; a lost device's work is over already.
  while (!pending_.empty() && !device_.lost()) {
    collect(true);
    if (!pending_.empty()) std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

Block Pool::take(size_t asked) {
  if (asked == 0) return {};
  const size_t bytes = size_class(asked);
  Block block;
  collect(false);
  if (find_free(bytes, block)) return block;
  collect(true);
  if (find_free(bytes, block)) return block;
  kvasir_error err{};
  kvasir_status status = allocate(bytes, block, err);
  if (status == KVASIR_OUT_OF_MEMORY) {
    wait_for_pending();
    if (find_free(bytes, block)) return block;
    trim();
    status = allocate(bytes, block, err);
  }
  if (status == KVASIR_OK) return block;
  if (status != KVASIR_OUT_OF_MEMORY) throw Failure(status, err.text);
  throw Failure(kOutOfMemory, "A tensor needs " + std::to_string(asked) + " bytes on " + device_.label() +
                                  ", where tensors hold " + std::to_string(device_.allocated_bytes()) + " and " +
                                  std::to_string(device_.free_bytes()) + " are free; dispose tensors, or ask for less.");
}

void Pool::give_back(Block block, Uses uses) {
  if (block.data == nullptr) return;
  uses.request();
  if (uses.passed())
    free_.emplace(block.bytes, block.data);
  else
    pending_.emplace_back(block, std::move(uses));
}

void Pool::trim() {
  collect(true);
  if (free_.empty()) return;
  const Standstills::Hold standstill = device_.environment().standstills.begin();
  for (const auto& [bytes, data] : free_) {
    device_.backend()->free(device_.handle(), data);
    blocks_.erase(data);
    reserved_ -= bytes;
  }
  free_.clear();
}

void Pool::clear() {
  for (const auto& [data, bytes] : blocks_) device_.backend()->free(device_.handle(), data);
  blocks_.clear();
  free_.clear();
  pending_.clear();
  reserved_ = 0;
}

Storage::Storage(std::shared_ptr<Device> device, size_t bytes)
    : device_(std::move(device)), bytes_(bytes), block_(device_->pool().take(bytes)) {
  device_->count_allocated(static_cast<int64_t>(bytes_));
}

Storage::Storage(std::shared_ptr<Device> device, std::shared_ptr<HostMemory> memory)
    : device_(std::move(device)), bytes_(memory->bytes()), block_{memory->data(), bytes_}, host_memory_(std::move(memory)) {
  host_memory_->used_by(uses);
  device_->count_allocated(static_cast<int64_t>(bytes_));
}

Storage::~Storage() {
  if (host_memory_ != nullptr) host_memory_->release(uses);
  if (device_->disposed()) return;  // the pool goes as a whole
  device_->count_allocated(-static_cast<int64_t>(bytes_));
  if (host_memory_ == nullptr) device_->pool().give_back(block_, std::move(uses));
}

}  // namespace kvasir::addon
