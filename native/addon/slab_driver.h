// The thread that moves pages between memory and a slab file: it takes batches, keeps a number of pages under way, submits their
// transfers to the engine, has checksums computed by a few threads of their own, and keeps index and file in step.
//
// A store takes a slot; if the file may still name another page there, that entry is overwritten first. Then header and payload
// are written; then the page is found by lookups, its entry is written, and the store is done. So an entry in the file names a
// page that was written whole before, whenever the process may be killed; if the machine loses power, the page's own checksums
// tell.
#pragma once
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "slab_batch.h"
#include "slab_sectors.h"
#include "task_threads.h"

namespace kvasir::addon {

class SlabDriver;

// A page under way.
struct PageOp : IoOwner {
  enum class Stage { prepare, transfer, verify, record };
  explicit PageOp(SlabDriver& d) : driver(d) {}
  void arrived(IoRequest& request) override;

  SlabDriver& driver;
  std::shared_ptr<PageBatch> batch;
  size_t place = 0;  // in the batch
  uint32_t slot = SlabIndex::kNone;
  Stage stage = Stage::prepare;
  int waits = 0;         // for parts, checksums and sectors
  int error = 0;         // errno of what failed first
  bool is_torn = false;  // the file ended before the page did
  bool bounces = false;  // the payload goes through `bounce`: its memory cannot be read and written in sectors
  EnvelopeField verdict = EnvelopeField::none;
  AlignedBytes header = aligned_bytes(kSector), bounce;
  std::vector<IoRequest> parts;

  const PageKey& key() const { return batch->keys[place]; }
  char* memory() const { return batch->memory[place]; }
  PageEnvelope envelope() const;
};

// What a driver can tell about itself.
struct SlabStats {
  SlabCounters counters;
  uint64_t pages = 0, payload_bytes = 0;
};

class SlabDriver {
 public:
  struct Opened {
    const char* code = nullptr;  // null: it is open, unless `found_identity` says that the file is of another
    std::string sentence, found_identity;
  };

  explicit SlabDriver(SlabOptions options);
  ~SlabDriver();  // as close(true), and waits
  SlabDriver(const SlabDriver&) = delete;
  SlabDriver& operator=(const SlabDriver&) = delete;

  // The calls below come from one thread, the caller's. `opened` is called on the driver's.
  void open(std::function<void(Opened)> opened);
  void submit(std::shared_ptr<PageBatch> batch);
  // 1 for each page that is there, which counts as a use of it.
  void lookup(uint32_t group, const uint8_t* keys, size_t count, uint8_t* found);
  SlabStats stats();
  void inject(const IoFaults& faults);
  // Takes no more batches; with `drops`, pages that were not begun fail. `closed` is called on the driver's thread, as its last
  // act, or at once where it has ended.
  void close(bool drops, std::function<void()> closed);
  bool is_open();
  // Of an open one.
  const SlabFile& file() const { return file_; }

 private:
  friend struct PageOp;
  void work(const std::function<void(Opened)>& opened);
  bool try_open(const std::function<void(Opened)>& opened);
  void serve();
  void take_inbox();
  void admit();
  bool admit_from(std::deque<std::shared_ptr<PageBatch>>& batches);
  void finish(PageBatch& batch);
  void pump();
  void collect();
  void settle(IoRequest& request);
  void wind_up();

  // slab_pages.cc: the life of one page.
  void start(const std::shared_ptr<PageBatch>& batch, size_t place);
  void start_load(const std::shared_ptr<PageBatch>& batch, size_t place);
  void start_store(const std::shared_ptr<PageBatch>& batch, size_t place);
  void start_remove(const std::shared_ptr<PageBatch>& batch, size_t place);
  bool is_being_stored(const PageKey& key) const;
  PageOp& begin_op(const std::shared_ptr<PageBatch>& batch, size_t place, uint32_t slot);
  void transfer(PageOp& op, IoKind kind);
  void seal(PageOp& op);
  void check(PageOp& op);
  void part_arrived(PageOp& op, IoRequest& request);
  void sector_passed(PageOp& op, int error);
  void advance(PageOp& op);
  void record(PageOp& op);
  void end(PageOp& op, uint8_t status);
  void end_store(PageOp& op);
  void end_load(PageOp& op);
  void post(PageOp& op);

  struct Sync : IoOwner {
    void arrived(IoRequest&) override { is_running = false; }
    IoRequest request;
    bool is_running = false;
  };
  IoEngine::Deadline sync_due();

  SlabFile file_;
  size_t most_ops_ = 0;
  std::unique_ptr<TaskThreads> checkers_;
  std::unique_ptr<SlabSectors> sectors_;
  std::vector<std::unique_ptr<PageOp>> ops_;  // under way
  std::vector<std::unique_ptr<PageOp>> idle_ops_;
  std::deque<std::shared_ptr<PageBatch>> reads_, writes_;  // with pages to begin; reads go first
  std::deque<IoRequest*> queue_;                           // to submit
  std::vector<IoRequest*> arrivals_;
  int in_flight_ = 0;
  bool closing_ = false, has_unsynced_ = false;
  std::chrono::steady_clock::time_point synced_at_{};
  Sync sync_;

  std::mutex lock_;
  SlabCounters counters_;  // these two, and the file's index, guarded by lock_
  bool is_open_ = false;

  std::mutex inbox_lock_;
  std::vector<std::shared_ptr<PageBatch>> new_batches_;  // these six guarded by inbox_lock_
  std::vector<PageOp*> posted_;
  std::vector<std::function<void()>> closed_;
  bool close_asked_ = false, drop_asked_ = false, is_serving_ = false;
  std::thread thread_;
};

}  // namespace kvasir::addon
