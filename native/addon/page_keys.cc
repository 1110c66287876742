#include "page_keys.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "../core/page_key.h"
#include "host_array.h"

namespace kvasir::addon {

namespace {

constexpr int64_t kMostPageTokens = 65536;
constexpr size_t kMostSyncTokens = 4096;
constexpr size_t kStepTokens = size_t{1} << 16;  // of one step of the job, so that other jobs get their turn

struct Request {
  const int32_t* tokens;
  size_t count;
  uint32_t page_size;
  const uint8_t* parent;
  size_t pages() const { return count / page_size; }
};

Request read_request(Call& call) {
  const HostArray tokens = host_array(call, 0, "tokens", sizeof(int32_t));
  if (tokens.type != napi_int32_array) call.wrong(0, "tokens", "Int32Array");
  const int64_t page_size = call.integer(1, "pageSize", 1, kMostPageTokens);
  const HostArray parent = host_array(call, 2, "parent", sizeof(uint32_t));
  if (parent.type != napi_uint32_array) call.wrong(2, "parent", "Uint32Array");
  if (parent.bytes != kPageKeyBytes) {
    throw Failure(kInvalidArgument, "parent has " + std::to_string(parent.bytes / sizeof(uint32_t)) +
                                        " words, expected 4: the key of the page before, or of the root.");
  }
  return {static_cast<const int32_t*>(tokens.data), tokens.bytes / sizeof(int32_t), static_cast<uint32_t>(page_size),
          static_cast<const uint8_t*>(parent.data)};
}

// Owns a copy of the tokens, for JavaScript may detach its array while a thread reads. Behind the keys lies the number of those
// that are there, which JavaScript looks at meanwhile.
class KeysJob : public Job {
 public:
  KeysJob(const Request& request, uint8_t* keys, std::unique_ptr<Completion> completion)
      : chain_(request.page_size, request.parent),
        tokens_(request.tokens, request.tokens + request.pages() * request.page_size),
        page_size_(request.page_size),
        keys_(keys),
        known_(reinterpret_cast<uint32_t*>(keys + request.pages() * kPageKeyBytes)),
        completion_(std::move(completion)) {}

  Step step() override {
    const size_t end = std::min(tokens_.size(), at_ + std::max<size_t>(page_size_, kStepTokens / page_size_ * page_size_));
    for (; at_ < end; at_ += page_size_, keys_ += kPageKeyBytes) {
      chain_.next(tokens_.data() + at_, keys_);
      std::atomic_ref(*known_).store(++count_, std::memory_order_release);
    }
    if (at_ < tokens_.size()) return Step::progressed;
    Completions& completions = completion_->completions;
    completions.post(std::move(completion_));
    return Step::done;
  }

 private:
  PageKeyChain chain_;
  std::vector<int32_t> tokens_;
  size_t page_size_, at_ = 0;
  uint8_t* keys_;  // of the completion's array
  uint32_t* known_;
  uint32_t count_ = 0;
  std::unique_ptr<Completion> completion_;
};

napi_value new_buffer(Call& call, size_t bytes, void** data) {
  napi_value buffer = nullptr;
  if (napi_create_arraybuffer(call.env, bytes, data, &buffer) != napi_ok) throw Napi::Error::New(call.env);
  return buffer;
}

}  // namespace

// pageKeys(tokens, pageSize, parent, keys): keys has room for those of the full pages and one word more.
napi_value page_keys(Call& call) {
  const Request request = read_request(call);
  const HostArray keys = host_array(call, 3, "keys", sizeof(uint32_t));
  const size_t bytes = request.pages() * kPageKeyBytes + sizeof(uint32_t);
  if (keys.type != napi_uint32_array || keys.bytes != bytes) call.wrong(3, "keys", "Uint32Array of 4 words a page and one more");
  auto owned = std::make_unique<Completion>(call.bindings.completions);
  Completion& completion = *owned;
  auto job = std::make_unique<KeysJob>(request, static_cast<uint8_t*>(keys.data), std::move(owned));
  ok(call.env, napi_create_reference(call.env, call.arguments[3], 1, &completion.array));
  const napi_value promise = call.bindings.completions.promise(completion);
  call.bindings.native->background.submit(std::move(job));
  return promise;
}

napi_value page_keys_sync(Call& call) {
  const Request request = read_request(call);
  if (request.count > kMostSyncTokens) {
    throw Failure(kInvalidArgument, "tokens has " + std::to_string(request.count) + " entries, expected at most " +
                                        std::to_string(kMostSyncTokens) + " here; pageKeys takes more, off this thread.");
  }
  void* keys = nullptr;
  const napi_value buffer = new_buffer(call, request.pages() * kPageKeyBytes, &keys);
  PageKeyChain chain(request.page_size, request.parent);
  for (size_t page = 0; page < request.pages(); ++page) {
    chain.next(request.tokens + page * request.page_size, static_cast<uint8_t*>(keys) + page * kPageKeyBytes);
  }
  return buffer;
}

}  // namespace kvasir::addon
