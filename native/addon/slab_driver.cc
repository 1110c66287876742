#include "slab_driver.h"

#include <algorithm>
#include <cerrno>

#include "failure.h"

namespace kvasir::addon {

namespace {

constexpr size_t kBytesUnderWay = size_t{64} << 20, kLeastOps = 4, kMostOps = 64;
constexpr int kMostRetries = 100;

size_t checker_threads() { return std::clamp<size_t>(std::thread::hardware_concurrency(), 1, 4); }

}  // namespace

SlabDriver::SlabDriver(SlabOptions options) : file_(std::move(options)) {}

SlabDriver::~SlabDriver() {
  close(true, nullptr);
  if (thread_.joinable()) thread_.join();
}

void SlabDriver::open(std::function<void(Opened)> opened) {
  thread_ = std::thread([this, opened = std::move(opened)] { work(opened); });
}

void SlabDriver::submit(std::shared_ptr<PageBatch> batch) {
  {
    const std::lock_guard lock(inbox_lock_);
    if (is_serving_ && !close_asked_) {
      new_batches_.push_back(std::move(batch));
      file_.engine().wake();
      return;
    }
  }
  std::fill_n(batch->statuses, batch->count(), static_cast<uint8_t>(PageStatus::failed));
  batch->done();
}

void SlabDriver::lookup(uint32_t group, const uint8_t* keys, size_t count, uint8_t* found) {
  const std::lock_guard lock(lock_);
  for (size_t i = count; i-- > 0;) {  // backwards, so that of a sequence's pages the first are used last
    found[i] = 0;
    if (!is_open_) continue;
    PageKey key{{}, group};
    std::copy_n(keys + 16 * i, 16, key.bytes.begin());
    const uint32_t slot = file_.index().find(key);
    if (slot == SlabIndex::kNone) continue;
    file_.index().touch(slot);
    found[i] = 1;
  }
}

SlabStats SlabDriver::stats() {
  const std::lock_guard lock(lock_);
  if (!is_open_) return {counters_, 0, 0};
  return {counters_, file_.index().pages(), file_.index().payload_bytes()};
}

void SlabDriver::inject(const IoFaults& faults) {
  const std::lock_guard lock(lock_);
  if (is_open_ && file_.faults() != nullptr) file_.faults()->set(faults);
}

bool SlabDriver::is_open() {
  const std::lock_guard lock(lock_);
  return is_open_;
}

void SlabDriver::close(bool drops, std::function<void()> closed) {
  {
    const std::lock_guard lock(inbox_lock_);
    close_asked_ = true;
    drop_asked_ = drop_asked_ || drops;
    if (is_serving_) {
      if (closed) closed_.push_back(std::move(closed));
      file_.engine().wake();
      return;
    }
  }
  if (closed) closed();
}

void SlabDriver::work(const std::function<void(Opened)>& opened) {
  if (!try_open(opened)) return;
  serve();
  wind_up();
}

bool SlabDriver::try_open(const std::function<void(Opened)>& opened) {
  Opened answer;
  try {
    file_.open();
    answer.found_identity = file_.found_identity();
  } catch (const Failure& failure) {
    answer = {failure.code(), failure.what(), {}};
  } catch (const std::bad_alloc&) {
    answer = {kOutOfMemory,
              "The host has no memory for the index of \"" + file_.options().path + "\"; give it a smaller maxBytes.",
              {}};
  }
  const bool is_good = answer.code == nullptr && answer.found_identity.empty();
  if (is_good) {
    most_ops_ = std::clamp(kBytesUnderWay / file_.layout().payload_bytes, kLeastOps, kMostOps);
    checkers_ = std::make_unique<TaskThreads>(checker_threads());
    sectors_ = std::make_unique<SlabSectors>(file_.layout(),
                                             SlabSectors::Hooks{[this](uint64_t sector, uint8_t* out) {
                                                                  const std::lock_guard lock(lock_);
                                                                  file_.index().encode_sector(sector, file_.salt(), out);
                                                                },
                                                                [this](IoRequest& request) { queue_.push_front(&request); },
                                                                [this](PageOp& op, int error) { sector_passed(op, error); }});
    synced_at_ = std::chrono::steady_clock::now();
    const std::scoped_lock lock(lock_, inbox_lock_);
    is_open_ = is_serving_ = true;
  } else {
    file_.close();
  }
  opened(std::move(answer));
  return is_good;
}

void SlabDriver::serve() {
  while (true) {
    take_inbox();
    admit();
    pump();
    const bool is_idle = ops_.empty() && in_flight_ == 0 && queue_.empty();
    if (closing_ && is_idle) return;
    // A page that never was under way may have ended a batch; what came of that is in the inbox.
    collect();
  }
}

void SlabDriver::take_inbox() {
  std::vector<std::shared_ptr<PageBatch>> batches;
  std::vector<PageOp*> posted;
  bool drops = false;
  {
    const std::lock_guard lock(inbox_lock_);
    batches.swap(new_batches_);
    posted.swap(posted_);
    closing_ = close_asked_;
    drops = drop_asked_;
  }
  for (std::shared_ptr<PageBatch>& batch : batches) {
    batch->slots.assign(batch->count(), SlabIndex::kNone);
    (batch->kind == BatchKind::store ? writes_ : reads_).push_back(std::move(batch));
  }
  for (PageOp* op : posted) {
    --op->waits;
    advance(*op);
  }
  if (!drops) return;
  for (const auto* waiting : {&reads_, &writes_})
    for (const std::shared_ptr<PageBatch>& batch : *waiting) batch->aborted = true;
}

void SlabDriver::admit() {
  while (ops_.size() < most_ops_ && (admit_from(reads_) || admit_from(writes_))) {
  }
}

// Begins one page; false where there is none.
bool SlabDriver::admit_from(std::deque<std::shared_ptr<PageBatch>>& batches) {
  if (batches.empty()) return false;
  const std::shared_ptr<PageBatch> batch = batches.front();
  if (batch->next < batch->count()) {
    const size_t place = batch->next++;
    ++batch->open;
    if (batch->aborted) {
      batch->statuses[place] = static_cast<uint8_t>(PageStatus::failed);
      --batch->open;
    } else {
      start(batch, place);
    }
  }
  if (batch->next < batch->count()) return true;
  batches.pop_front();
  if (batch->open == 0) finish(*batch);
  return true;
}

void SlabDriver::finish(PageBatch& batch) {
  {
    // Backwards, so that of a sequence's pages the first are the last to be evicted.
    const std::lock_guard lock(lock_);
    SlabIndex& index = file_.index();
    for (size_t place = batch.count(); place-- > 0;) {
      const uint32_t slot = batch.slots[place];
      if (slot == SlabIndex::kNone) continue;
      if (batch.kind == BatchKind::store)
        index.release(slot);
      else if (index.entry(slot).key == batch.keys[place])
        index.touch(slot);
    }
  }
  batch.done();
}

void SlabDriver::pump() {
  const size_t count = std::min<size_t>(queue_.size(), static_cast<size_t>(IoEngine::kDepth - in_flight_));
  if (count == 0) return;
  IoRequest* requests[IoEngine::kDepth];
  std::copy_n(queue_.begin(), count, requests);
  queue_.erase(queue_.begin(), queue_.begin() + static_cast<std::ptrdiff_t>(count));
  in_flight_ += static_cast<int>(count);
  for (size_t i = 0; i < count; ++i) has_unsynced_ = has_unsynced_ || requests[i]->kind == IoKind::write;
  file_.engine().submit(requests, count);
}

IoEngine::Deadline SlabDriver::sync_due() {
  const int64_t every = file_.options().sync_ms;
  if (every <= 0 || !has_unsynced_ || sync_.is_running) return IoEngine::Deadline::max();
  const auto due = synced_at_ + std::chrono::milliseconds(every);
  if (std::chrono::steady_clock::now() < due) return due;
  has_unsynced_ = in_flight_ > 0;  // what has not arrived may miss this one
  sync_.is_running = true;
  sync_.request = IoRequest{};
  sync_.request.kind = IoKind::sync;
  sync_.request.owner = static_cast<IoOwner*>(&sync_);
  queue_.push_front(&sync_.request);
  synced_at_ = std::chrono::steady_clock::now();
  pump();
  return IoEngine::Deadline::max();
}

void SlabDriver::collect() {
  file_.engine().collect(arrivals_, sync_due());
  for (IoRequest* request : arrivals_) {
    --in_flight_;
    settle(*request);
  }
  arrivals_.clear();
}

// A transfer that moved a part, or could not start now, goes on; else its owner hears of it.
void SlabDriver::settle(IoRequest& request) {
  const size_t bytes = request.bytes();
  if ((request.result == -EAGAIN || request.result == -EINTR) && request.retries++ < kMostRetries)
    return queue_.push_front(&request);
  if (request.result > 0 && static_cast<size_t>(request.result) < bytes) {
    const size_t moved = static_cast<size_t>(request.result);
    if (!file_.is_direct() || moved % kSector == 0) {
      request.advance(moved);
      return queue_.push_front(&request);
    }
    request.result = 0;  // no sector's end: the file ends there
  }
  static_cast<IoOwner*>(request.owner)->arrived(request);
}

void SlabDriver::wind_up() {
  checkers_.reset();
  if (file_.options().sync_ms >= 0) file_.sync();
  std::vector<std::function<void()>> closed;
  {
    const std::lock_guard lock(lock_);
    is_open_ = false;
  }
  {
    const std::lock_guard lock(inbox_lock_);
    is_serving_ = false;
    closed.swap(closed_);
    file_.close();
  }
  for (const std::function<void()>& each : closed) each();
}

}  // namespace kvasir::addon
