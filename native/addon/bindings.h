// What the addon keeps per JavaScript environment (the main thread, or a worker thread): the constructors, the registry of
// wrapped objects, and the promises in flight.
#pragma once
#include <memory>
#include <unordered_set>
#include <vector>

#include "completions.h"
#include "device.h"
#include "napi_setup.h"

namespace kvasir::addon {

// What a JavaScript object of ours wraps.
enum class Kind { device, stream, tensor, event, program, slab, transfer_stream, transfer };
inline constexpr int kKinds = 8;

struct Bindings;

struct Wrapped {
  Wrapped(Kind k, std::shared_ptr<Bindings> b) : kind(k), bindings(std::move(b)) {}
  virtual ~Wrapped() = default;
  const Kind kind;
  const std::shared_ptr<Bindings> bindings;
};

struct Bindings : std::enable_shared_from_this<Bindings> {
  explicit Bindings(napi_env env);

  napi_env env;
  std::shared_ptr<Environment> native = std::make_shared<Environment>();
  Completions completions;
  napi_ref constructors[kKinds] = {};
  std::unordered_set<Wrapped*> alive;  // so that a foreign object is told from one of ours
};

Bindings& bindings_of(napi_env env);

// Throws the JavaScript exception that is pending when a call failed for lack of a better reason.
inline void ok(napi_env env, napi_status status) {
  if (status != napi_ok) throw Napi::Error::New(env);
}

}  // namespace kvasir::addon
