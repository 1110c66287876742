// The life of one page in the driver: load = transfer, verify; store = prepare (checksum, entry of the slot's last page),
// transfer, record; remove = record.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "slab_driver.h"

namespace kvasir::addon {

namespace {

// Longest transfer: long enough for the disk to stream, short enough for several to be under way of one page.
constexpr size_t kPartBytes = size_t{1} << 20;
// What is copied and summed at once while it is in the cache.
constexpr size_t kChunkBytes = size_t{256} << 10;

bool is_aligned(const char* memory) { return reinterpret_cast<uintptr_t>(memory) % kSector == 0; }

uint64_t sector_of(uint32_t slot) { return slot / kSectorSlots; }

}  // namespace

PageEnvelope PageOp::envelope() const {
  PageEnvelope envelope;
  envelope.fingerprint = driver.file_.options().fingerprint.data();
  envelope.key = key().bytes.data();
  envelope.parent = batch->parents[place].data();
  envelope.page_size = driver.file_.options().page_size;
  envelope.tokens = batch->tokens.data() + place * envelope.page_size;
  envelope.group = batch->group;
  envelope.payload_bytes = batch->page_bytes;
  return envelope;
}

void PageOp::arrived(IoRequest& request) { driver.part_arrived(*this, request); }

void SlabDriver::start(const std::shared_ptr<PageBatch>& batch, size_t place) {
  switch (batch->kind) {
    case BatchKind::load: return start_load(batch, place);
    case BatchKind::store: return start_store(batch, place);
    case BatchKind::remove: return start_remove(batch, place);
  }
}

PageOp& SlabDriver::begin_op(const std::shared_ptr<PageBatch>& batch, size_t place, uint32_t slot) {
  if (idle_ops_.empty()) idle_ops_.push_back(std::make_unique<PageOp>(*this));
  ops_.push_back(std::move(idle_ops_.back()));
  idle_ops_.pop_back();
  PageOp& op = *ops_.back();
  op.batch = batch;
  op.place = place;
  op.slot = slot;
  op.waits = op.error = 0;
  op.is_torn = op.bounces = false;
  op.verdict = EnvelopeField::none;
  if (batch->kind == BatchKind::remove) return op;
  op.bounces = file_.is_direct() && (batch->page_bytes % kSector != 0 || !is_aligned(op.memory()));
  if (op.bounces && op.bounce == nullptr) op.bounce = aligned_bytes(file_.layout().payload_bytes);
  return op;
}

void SlabDriver::start_load(const std::shared_ptr<PageBatch>& batch, size_t place) {
  uint32_t slot = SlabIndex::kNone;
  {
    const std::lock_guard lock(lock_);
    slot = file_.index().find(batch->keys[place]);
    if (slot != SlabIndex::kNone)
      file_.index().hold(slot);
    else
      ++counters_.misses;
  }
  if (slot == SlabIndex::kNone) {
    batch->statuses[place] = static_cast<uint8_t>(PageStatus::missing);
    --batch->open;
    return;
  }
  transfer(begin_op(batch, place, slot), IoKind::read);
}

bool SlabDriver::is_being_stored(const PageKey& key) const {
  return std::any_of(ops_.begin(), ops_.end(),
                     [&](const std::unique_ptr<PageOp>& op) { return op->batch->kind == BatchKind::store && op->key() == key; });
}

void SlabDriver::start_store(const std::shared_ptr<PageBatch>& batch, size_t place) {
  const PageKey& key = batch->keys[place];
  StoreStatus status = StoreStatus::present;
  uint32_t slot = SlabIndex::kNone;
  bool is_stale = false;
  if (file_.index().needs_room(file_.room())) file_.grow();  // the index changes on this thread alone
  if (!is_being_stored(key)) {
    const std::lock_guard lock(lock_);
    SlabIndex& index = file_.index();
    if (const uint32_t found = index.find(key); found != SlabIndex::kNone) {
      index.hold(found);
      batch->slots[place] = found;
    } else {
      slot = batch->slots[place] = index.take(file_.room());
      status = StoreStatus::refused;
      counters_.evictions = index.evictions();
      is_stale = slot != SlabIndex::kNone && index.is_stale(slot);
      if (slot == SlabIndex::kNone) ++counters_.refused;
    }
  }
  if (slot == SlabIndex::kNone) {
    batch->statuses[place] = static_cast<uint8_t>(status);
    --batch->open;
    return;
  }
  if (batch->sequence == 0) {
    const std::lock_guard lock(lock_);
    batch->sequence = file_.index().next_sequence(batch->count());
  }
  PageOp& op = begin_op(batch, place, slot);
  op.stage = PageOp::Stage::prepare;
  op.waits = 1;
  if (is_stale) {
    ++op.waits;
    sectors_->write(sector_of(slot), &op);
  }
  checkers_->run([this, &op] {
    seal(op);
    post(op);
  });
}

void SlabDriver::start_remove(const std::shared_ptr<PageBatch>& batch, size_t place) {
  batch->statuses[place] = static_cast<uint8_t>(PageStatus::loaded);
  uint32_t slot = SlabIndex::kNone;
  {
    const std::lock_guard lock(lock_);
    slot = file_.index().find(batch->keys[place]);
    if (slot != SlabIndex::kNone) file_.index().forget(slot);
  }
  if (slot == SlabIndex::kNone) {
    --batch->open;
    return;
  }
  PageOp& op = begin_op(batch, place, slot);
  op.stage = PageOp::Stage::record;
  op.waits = 1;
  sectors_->write(sector_of(slot), &op);
}

// Header and payload, in parts that the engine moves side by side.
void SlabDriver::transfer(PageOp& op, IoKind kind) {
  op.stage = PageOp::Stage::transfer;
  const size_t bytes = file_.is_direct() ? round_up(op.batch->page_bytes, kSector) : op.batch->page_bytes;
  char* payload = op.bounces ? reinterpret_cast<char*>(op.bounce.get()) : op.memory();
  const uint64_t slot_at = file_.layout().slot_at(op.slot);
  op.parts.assign((bytes + kPartBytes - 1) / kPartBytes, IoRequest{});
  for (size_t i = 0; i < op.parts.size(); ++i) {
    IoRequest& part = op.parts[i];
    const size_t from = i * kPartBytes;
    part.kind = kind;
    if (i == 0) part.memory[part.pieces++] = {op.header.get(), kSector};
    part.memory[part.pieces++] = {payload + from, std::min(kPartBytes, bytes - from)};
    part.offset = slot_at + (i == 0 ? 0 : kSector + from);
    part.owner = static_cast<IoOwner*>(&op);
    queue_.push_back(&part);
  }
  op.waits = static_cast<int>(op.parts.size());
}

// On a checker's thread: header and, where it bounces, copy of a page to be stored.
void SlabDriver::seal(PageOp& op) {
  const size_t bytes = op.batch->page_bytes;
  uint32_t crc = 0;
  for (size_t at = 0; at < bytes; at += kChunkBytes) {
    const size_t chunk = std::min(kChunkBytes, bytes - at);
    if (op.bounces) std::memcpy(op.bounce.get() + at, op.memory() + at, chunk);
    crc = crc32c(op.bounces ? reinterpret_cast<const char*>(op.bounce.get()) + at : op.memory() + at, chunk, crc);
  }
  if (op.bounces) std::memset(op.bounce.get() + bytes, 0, round_up(bytes, kSector) - bytes);
  std::memset(op.header.get(), 0, kSector);
  seal_envelope(op.envelope(), crc, op.header.get());
}

// On a checker's thread: whether the page is the one that was asked for, and whole; where it bounces, its copy.
void SlabDriver::check(PageOp& op) {
  const char* payload = op.bounces ? reinterpret_cast<const char*>(op.bounce.get()) : op.memory();
  op.verdict = check_page(op.header.get(), kSector, payload, op.envelope());
  if (op.bounces && op.verdict == EnvelopeField::none) std::memcpy(op.memory(), payload, op.batch->page_bytes);
}

void SlabDriver::post(PageOp& op) {
  const std::lock_guard lock(inbox_lock_);
  posted_.push_back(&op);
  file_.engine().wake();
}

void SlabDriver::part_arrived(PageOp& op, IoRequest& request) {
  if (request.result < 0 && op.error == 0) op.error = static_cast<int>(-request.result);
  if (request.result == 0) op.is_torn = true;
  --op.waits;
  advance(op);
}

void SlabDriver::sector_passed(PageOp& op, int error) {
  if (error != 0 && op.batch->kind == BatchKind::store) op.error = error;
  if (op.stage == PageOp::Stage::prepare && error == 0) {
    const std::lock_guard lock(lock_);
    file_.index().set_stale(op.slot, false);
  }
  --op.waits;
  advance(op);
}

void SlabDriver::advance(PageOp& op) {
  if (op.waits > 0) return;
  const bool is_store = op.batch->kind == BatchKind::store, is_bad = op.error != 0 || op.is_torn;
  switch (op.stage) {
    case PageOp::Stage::prepare:
      if (is_bad) return end_store(op);
      return transfer(op, IoKind::write);
    case PageOp::Stage::transfer:
      if (is_store) return is_bad ? end_store(op) : record(op);
      if (is_bad) return end_load(op);
      op.stage = PageOp::Stage::verify;
      op.waits = 1;
      return checkers_->run([this, &op] {
        check(op);
        post(op);
      });
    case PageOp::Stage::verify: return end_load(op);
    case PageOp::Stage::record: return is_store ? end_store(op) : end(op, static_cast<uint8_t>(PageStatus::loaded));
  }
}

// The page was written: lookups find it from now on, and its entry follows.
void SlabDriver::record(PageOp& op) {
  SlabEntry entry;
  entry.key = op.key();
  entry.parent = op.batch->parents[op.place];
  entry.sequence = op.batch->sequence + (op.batch->count() - 1 - op.place);  // the first pages of a sequence outlive the last
  entry.payload_bytes = op.batch->page_bytes;
  {
    const std::lock_guard lock(lock_);
    file_.index().publish(op.slot, entry);
  }
  op.stage = PageOp::Stage::record;
  op.waits = 1;
  sectors_->write(sector_of(op.slot), &op);
}

void SlabDriver::end_store(PageOp& op) {
  StoreStatus status = StoreStatus::stored;
  if (op.error == ENOSPC)
    status = StoreStatus::refused;
  else if (op.error != 0 || op.is_torn)
    status = StoreStatus::failed;
  {
    const std::lock_guard lock(lock_);
    // An entry that could not be written would be missed after a restart.
    if (status != StoreStatus::stored && file_.index().entry(op.slot).key == op.key()) file_.index().forget(op.slot);
    if (status == StoreStatus::stored) ++counters_.stores, counters_.stored_bytes += op.batch->page_bytes;
    if (status == StoreStatus::refused) {
      ++counters_.refused;
      file_.index().withdraw(op.slot);  // the file system promised room that it does not have
      file_.stop_growing();
    }
    if (status == StoreStatus::failed) ++counters_.failures;
  }
  end(op, static_cast<uint8_t>(status));
}

void SlabDriver::end_load(PageOp& op) {
  PageStatus status = PageStatus::loaded;
  if (op.error != 0)
    status = PageStatus::failed;
  else if (op.is_torn || op.verdict != EnvelopeField::none)
    status = PageStatus::damaged;
  const uint32_t slot = op.slot;
  bool is_forgotten = false;
  {
    const std::lock_guard lock(lock_);
    SlabIndex& index = file_.index();
    if (status == PageStatus::loaded) ++counters_.loads, counters_.loaded_bytes += op.batch->page_bytes;
    if (status == PageStatus::damaged) ++counters_.damaged;
    if (status == PageStatus::failed) ++counters_.failures;
    // What cannot be read is of no use; stored anew it gets another place.
    is_forgotten = status != PageStatus::loaded && index.entry(slot).key == op.key();
    if (is_forgotten) index.forget(slot);
    index.release(slot);
    if (status == PageStatus::loaded) op.batch->slots[op.place] = slot;
  }
  if (is_forgotten) sectors_->write(sector_of(slot), nullptr);
  end(op, static_cast<uint8_t>(status));
}

void SlabDriver::end(PageOp& op, uint8_t status) {
  const std::shared_ptr<PageBatch> batch = std::move(op.batch);
  batch->statuses[op.place] = status;
  const auto own = std::find_if(ops_.begin(), ops_.end(), [&](const auto& other) { return other.get() == &op; });
  idle_ops_.push_back(std::move(*own));
  ops_.erase(own);
  if (--batch->open == 0 && batch->next == batch->count()) finish(*batch);
}

}  // namespace kvasir::addon
