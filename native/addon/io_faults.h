// An engine that fails where a test says so: the n-th read or write from now, short transfers, a delay of every transfer.
#pragma once
#include <deque>
#include <mutex>
#include <utility>

#include "io_engine.h"

namespace kvasir::addon {

struct IoFaults {
  int64_t fail_read = 0, fail_write = 0;  // the n-th from now fails; 0 none
  int64_t fail_count = 1;                 // and so many in a row
  int error = 0;                          // errno that they fail with
  int64_t most_bytes = 0;                 // no transfer moves more; 0 no limit
  int64_t delay_us = 0;                   // transfers end that much later
  bool no_space = false;                  // the file cannot grow
};

class FaultyEngine : public IoEngine {
 public:
  explicit FaultyEngine(std::unique_ptr<IoEngine> inner) : inner_(std::move(inner)) {}
  const char* name() const override { return inner_->name(); }
  void submit(IoRequest* const* requests, size_t count) override;
  void collect(std::vector<IoRequest*>& done, Deadline deadline) override;
  void wake() override { inner_->wake(); }
  // From any thread.
  void set(const IoFaults& faults);
  bool no_space() const;

 private:
  // A transfer that was cut short: what went to the inner engine, and for whom.
  struct Cut {
    IoRequest part;
    IoRequest* whole;
  };
  bool fails(IoKind kind, int& error);
  IoRequest* cut(IoRequest* request, int64_t most_bytes);

  std::unique_ptr<IoEngine> inner_;
  mutable std::mutex lock_;
  IoFaults faults_;  // guarded by lock_
  std::deque<std::pair<Deadline, IoRequest*>> late_;
  std::vector<std::unique_ptr<Cut>> cuts_;
};

}  // namespace kvasir::addon
