// What the module exports (lib/native.ts: NativeAddon), and what happens when an environment goes down.
#include "../contracts/contract.h"
#include "../core/sha256.h"
#include "args.h"
#include "floats.h"
#include "loader.h"
#include "page_keys.h"
#include "page_staging.h"
#include "wraps.h"

namespace kvasir::addon {

namespace {

constexpr int64_t kMostBytes = int64_t{1} << 53;

template <napi_value (*body)(Call&), size_t most = Call::kMost>
napi_value function(napi_env env, napi_callback_info info) {
  return at_the_edge(env, [&]() -> napi_value {
    size_t count = most;
    napi_value arguments[most];
    ok(env, napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr));
    Call call{env, bindings_of(env), count, arguments};
    return body(call);
  });
}

napi_value probe(Call& call) {
  const Loaded& loaded = load_backend(call.string(0, "backend"));
  kvasir_error why{};
  const int32_t devices = loaded.backend == nullptr ? 0 : loaded.backend->probe(&why);
  const std::string reason = loaded.backend == nullptr ? loaded.reason : why.text;
  Napi::Object result = Napi::Object::New(call.env);
  Napi::Array reasons = Napi::Array::New(call.env);
  if (devices == 0) reasons.Set(0u, reason);
  result.Set("devices", devices);
  result.Set("reasons", reasons);
  return result;
}

napi_value open_device(Call& call) {
  const Loaded& loaded = load_backend(call.string(0, "backend"));
  kvasir_device_options options{};
  options.index = static_cast<int32_t>(call.integer(1, "index", 0, 1 << 16));
  options.threads = static_cast<int32_t>(call.integer(2, "threads", 0, 4096));
  options.memory_limit = call.integer(3, "memoryLimit", 0, kMostBytes);
  if (loaded.backend == nullptr) throw Failure(kUnavailable, loaded.reason);
  kvasir_error why{};
  if (loaded.backend->probe(&why) == 0) throw Failure(kUnavailable, why.text);
  std::shared_ptr<Device> device = Device::open(call.bindings.native, loaded.backend, options);
  return new_object(call.bindings, std::make_unique<DeviceWrap>(call.bindings.shared_from_this(), std::move(device)));
}

// Runs while the environment still exists, before any finaliser: streams run dry, devices close, and nothing posts afterwards.
void tear_down(void* data) {
  auto& bindings = *static_cast<Bindings*>(data);
  bindings.native->close();
  bindings.completions.close();
}

void export_function(napi_env env, napi_value exports, const char* name, napi_callback callback) {
  napi_value value = nullptr;
  ok(env, napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &value));
  ok(env, napi_set_named_property(env, exports, name, value));
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  at_the_edge(env, [&]() -> napi_value {
    auto held = std::make_unique<std::shared_ptr<Bindings>>(std::make_shared<Bindings>(env));
    Bindings& bindings = **held;
    const auto drop = [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<Bindings>*>(data); };
    ok(env, napi_set_instance_data(env, held.get(), drop, nullptr));
    held.release();
    ok(env, napi_add_env_cleanup_hook(env, tear_down, &bindings));
    check_argument_sizes();
    define_device(bindings);
    define_stream(bindings);
    define_transfer_stream(bindings);
    define_tensor(bindings);
    define_event(bindings);
    define_program(bindings);
    define_slab(bindings);
    Napi::Array names = Napi::Array::New(env), fields = Napi::Array::New(env);
    uint32_t op = 0;
    for (const Contract& contract : contracts()) {
      Napi::Array of_op = Napi::Array::New(env);
      for (uint32_t i = 0; i < contract.fields.size(); ++i) of_op.Set(i, contract.fields[i].name);
      names.Set(op, contract.name);
      fields.Set(op++, of_op);
    }
    exports.Set("version", KVASIR_VERSION);
    exports.Set("sha256Isa", sha256_isa());
    exports.Set("opNames", names);
    exports.Set("opFields", fields);
    export_function(env, exports, "probe", function<probe>);
    export_function(env, exports, "openDevice", function<open_device>);
    export_function(env, exports, "createSlab", function<create_slab>);
    export_function(env, exports, "encodeFloats", function<encode_floats>);
    export_function(env, exports, "decodeFloats", function<decode_floats>);
    export_function(env, exports, "pageKeys", function<page_keys>);
    export_function(env, exports, "pageKeysSync", function<page_keys_sync>);
    export_function(env, exports, "sealPages", function<seal_pages, kSealArguments>);
    export_function(env, exports, "openPages", function<open_pages, kOpenArguments>);
    export_function(env, exports, "envelopeBytes", function<envelope_size>);
    return nullptr;
  });
  return exports;
}

}  // namespace

Bindings::Bindings(napi_env e) : env(e), completions(e) {}

Bindings& bindings_of(napi_env env) {
  void* data = nullptr;
  ok(env, napi_get_instance_data(env, &data));
  return **static_cast<std::shared_ptr<Bindings>*>(data);
}

NODE_API_MODULE(kvasir, init)

}  // namespace kvasir::addon
