// Promises of work in flight. A thread of a backend posts that the work is done; the JavaScript thread settles the promise. One
// thread-safe function serves an environment, and keeps its event loop alive only while something is pending.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "load_file.h"
#include "napi_setup.h"
#include "stream.h"

namespace kvasir::addon {

class Completions;

// One promise, with what must live until it is settled.
struct Completion {
  explicit Completion(Completions& owner) : completions(owner) {}
  Completions& completions;
  napi_deferred deferred = nullptr;
  napi_ref array = nullptr;        // the array that is being read or filled
  bool gives_array = false;        // resolves with it
  std::optional<bool> answer;      // or with this
  napi_ref held = nullptr;         // an object that must not be collected before
  std::shared_ptr<Device> device;  // null: the work is on no stream, and no lost device ends it
  std::shared_ptr<Fence> fence;    // known to be passed up to `number` once settled
  uint64_t number = 0;
  std::shared_ptr<Storage> storage;
  std::shared_ptr<LoadResult> load;
  std::function<void()> finish;  // the last step, on the background thread: gathering strided elements
  // Set by the backend.
  kvasir_status status = KVASIR_OK;
  std::string sentence;
};

class Completions {
 public:
  explicit Completions(napi_env env);
  Completions(const Completions&) = delete;
  Completions& operator=(const Completions&) = delete;

  // Settles a fresh promise once the stream passed everything enqueued so far. `completion` says what else belongs to it.
  napi_value promise(Stream& stream, std::unique_ptr<Completion> completion);
  // A fresh promise that is settled when somebody posts the completion, which lives until then. `load` tells what failed.
  napi_value promise(Completion& completion);
  // A promise that stays pending until the completion is posted; whoever enqueues the work sees to that.
  napi_value begin(AnyStream& stream, Completion& completion);
  // The same for work that is on no stream: `fence` is null.
  napi_value begin(std::shared_ptr<Device> device, std::shared_ptr<Fence> fence, Completion& completion);
  // From any thread.
  void post(std::unique_ptr<Completion> completion);
  // The environment goes down: nothing is settled any more.
  void close();

 private:
  static void drain(napi_env env, napi_value function, void* context, void* data);
  void settle(Completion& completion);

  napi_env env_;
  napi_threadsafe_function function_ = nullptr;
  size_t pending_ = 0;
  std::mutex lock_;
  std::vector<std::unique_ptr<Completion>> done_;  // guarded by lock_
  bool closed_ = false;                            // guarded by lock_
};

// The JavaScript error of a failure: an Error with `code`.
napi_value error_value(napi_env env, const char* code, const char* sentence);

}  // namespace kvasir::addon
