#include "completions.h"

#include "bindings.h"
#include "failure.h"

namespace kvasir::addon {

namespace {

class FinishJob : public Job {
 public:
  explicit FinishJob(std::unique_ptr<Completion> completion) : completion_(std::move(completion)) {}
  Step step() override {
    completion_->finish();
    Completions& completions = completion_->completions;
    completions.post(std::move(completion_));
    return Step::done;
  }

 private:
  std::unique_ptr<Completion> completion_;
};

// On a thread of the backend.
void passed(void* user, kvasir_status status, const char* text) {
  std::unique_ptr<Completion> completion(static_cast<Completion*>(user));
  completion->status = status;
  if (status != KVASIR_OK) completion->sentence = text;
  if (status == KVASIR_DEVICE_LOST) completion->device->lose(text);
  if (status == KVASIR_OK && completion->finish) {
    Background& background = completion->device->environment().background;
    background.submit(std::make_unique<FinishJob>(std::move(completion)));
    return;
  }
  Completions& completions = completion->completions;
  completions.post(std::move(completion));
}

}  // namespace

napi_value error_value(napi_env env, const char* code, const char* sentence) {
  napi_value code_string = nullptr, message = nullptr, error = nullptr;
  napi_create_string_utf8(env, code, NAPI_AUTO_LENGTH, &code_string);
  napi_create_string_utf8(env, sentence, NAPI_AUTO_LENGTH, &message);
  napi_create_error(env, code_string, message, &error);
  return error;
}

Completions::Completions(napi_env env) : env_(env) {
  napi_value name = nullptr;
  ok(env, napi_create_string_utf8(env, "kvasir", NAPI_AUTO_LENGTH, &name));
  ok(env, napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, this, drain, &function_));
  ok(env, napi_unref_threadsafe_function(env, function_));
}

napi_value Completions::promise(Completion& completion) { return begin(nullptr, nullptr, completion); }

napi_value Completions::begin(AnyStream& stream, Completion& completion) {
  completion.number = stream.number() + 1;
  return begin(stream.device(), stream.fence(), completion);
}

napi_value Completions::begin(std::shared_ptr<Device> device, std::shared_ptr<Fence> fence, Completion& completion) {
  napi_value promise = nullptr;
  ok(env_, napi_create_promise(env_, &completion.deferred, &promise));
  completion.device = std::move(device);
  completion.fence = std::move(fence);
  if (pending_++ == 0) napi_ref_threadsafe_function(env_, function_);
  return promise;
}

napi_value Completions::promise(Stream& stream, std::unique_ptr<Completion> completion) {
  const napi_value promise = begin(stream, *completion);
  try {
    stream.call_back(passed, completion.get());
    completion.release();
  } catch (const Failure& failure) {
    completion->status = KVASIR_INTERNAL;
    completion->load = std::make_shared<LoadResult>(LoadResult{failure.code(), failure.what()});
    post(std::move(completion));
  }
  return promise;
}

void Completions::post(std::unique_ptr<Completion> completion) {
  const std::lock_guard lock(lock_);
  done_.push_back(std::move(completion));
  if (!closed_ && done_.size() == 1) napi_call_threadsafe_function(function_, nullptr, napi_tsfn_nonblocking);
}

void Completions::close() {
  std::vector<std::unique_ptr<Completion>> dropped;
  const std::lock_guard lock(lock_);
  closed_ = true;
  dropped.swap(done_);
}

void Completions::drain(napi_env env, napi_value, void* context, void*) {
  auto& self = *static_cast<Completions*>(context);
  std::vector<std::unique_ptr<Completion>> done;
  {
    const std::lock_guard lock(self.lock_);
    done.swap(self.done_);
  }
  if (env == nullptr) return;  // the environment is going down
  for (const std::unique_ptr<Completion>& completion : done) {
    Napi::HandleScope scope(env);
    self.settle(*completion);
    if (--self.pending_ == 0) napi_unref_threadsafe_function(env, self.function_);
  }
}

void Completions::settle(Completion& completion) {
  napi_value value = nullptr;
  if (completion.array != nullptr) {
    napi_get_reference_value(env_, completion.array, &value);
    napi_delete_reference(env_, completion.array);
  }
  if (!completion.gives_array) napi_get_undefined(env_, &value);
  if (completion.answer) napi_get_boolean(env_, *completion.answer, &value);
  if (completion.held != nullptr) napi_delete_reference(env_, completion.held);
  const bool lost = completion.device != nullptr && (completion.status == KVASIR_DEVICE_LOST || completion.device->lost());
  if (completion.fence != nullptr && completion.status == KVASIR_OK)
    completion.fence->known.store(completion.number, std::memory_order_relaxed);
  if (lost) {
    completion.device->release_waiters();
    napi_reject_deferred(env_, completion.deferred, error_value(env_, kDeviceLost, completion.device->lost_sentence().c_str()));
  } else if (completion.load != nullptr && completion.load->code != nullptr) {
    napi_reject_deferred(env_, completion.deferred, error_value(env_, completion.load->code, completion.load->sentence.c_str()));
  } else if (completion.status != KVASIR_OK) {
    const Failure failure(completion.status, completion.sentence.c_str());
    napi_reject_deferred(env_, completion.deferred, error_value(env_, failure.code(), failure.what()));
  } else {
    napi_resolve_deferred(env_, completion.deferred, value);
  }
}

}  // namespace kvasir::addon
