#include "io_faults.h"

#include <algorithm>

namespace kvasir::addon {

void FaultyEngine::set(const IoFaults& faults) {
  const std::lock_guard lock(lock_);
  faults_ = faults;
}

bool FaultyEngine::no_space() const {
  const std::lock_guard lock(lock_);
  return faults_.no_space;
}

bool FaultyEngine::fails(IoKind kind, int& error) {
  int64_t& left = kind == IoKind::read ? faults_.fail_read : faults_.fail_write;
  if (kind == IoKind::sync || left == 0) return false;
  if (left > 1) {
    --left;
    return false;
  }
  if (--faults_.fail_count <= 0) left = 0;
  error = faults_.error;
  return true;
}

IoRequest* FaultyEngine::cut(IoRequest* request, int64_t most_bytes) {
  auto made = std::make_unique<Cut>(Cut{*request, request});
  size_t left = static_cast<size_t>(most_bytes);
  for (int i = 0; i < made->part.pieces; ++i) {
    iovec& piece = made->part.memory[i];
    piece.iov_len = std::min(piece.iov_len, left);
    left -= piece.iov_len;
  }
  if (made->part.pieces == 2 && made->part.memory[1].iov_len == 0) made->part.pieces = 1;
  cuts_.push_back(std::move(made));
  return &cuts_.back()->part;
}

void FaultyEngine::submit(IoRequest* const* requests, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    IoRequest* request = requests[i];
    const std::lock_guard lock(lock_);
    int error = 0;
    if (fails(request->kind, error)) {
      request->result = -error;
      late_.emplace_back(std::chrono::steady_clock::now() + std::chrono::microseconds(faults_.delay_us), request);
      continue;
    }
    const bool is_long = faults_.most_bytes > 0 && request->bytes() > static_cast<size_t>(faults_.most_bytes);
    if (is_long) request = cut(request, faults_.most_bytes);
    inner_->submit(&request, 1);
  }
}

void FaultyEngine::collect(std::vector<IoRequest*>& done, Deadline deadline) {
  for (const auto& [due, request] : late_) deadline = std::min(deadline, due);
  std::vector<IoRequest*> arrived;
  inner_->collect(arrived, deadline);
  const auto now = std::chrono::steady_clock::now();
  const std::lock_guard lock(lock_);
  for (IoRequest* request : arrived) {
    const auto found = std::find_if(cuts_.begin(), cuts_.end(), [&](const auto& made) { return &made->part == request; });
    if (found != cuts_.end()) {
      (*found)->whole->result = request->result;
      request = (*found)->whole;
      cuts_.erase(found);
    }
    if (faults_.delay_us == 0)
      done.push_back(request);
    else
      late_.emplace_back(now + std::chrono::microseconds(faults_.delay_us), request);
  }
  std::erase_if(late_, [&](const auto& waiting) {
    if (waiting.first > now) return false;
    done.push_back(waiting.second);
    return true;
  });
}

}  // namespace kvasir::addon
