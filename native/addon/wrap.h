// JavaScript classes over C++ objects, thin enough for calls that count in microseconds: a method is a plain function of the
// object and the call, errors are C++ exceptions until they reach the edge, and a receiver or argument of another kind is refused
// by name.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bindings.h"
#include "failure.h"

namespace kvasir::addon {

// A value in words, for error sentences: "a string (\"abc\")", "null", "a Float32Array".
std::string in_words(napi_env env, napi_value value);

// The object of ours that the value wraps, or nullptr.
Wrapped* unwrap(Bindings& bindings, napi_value value);

struct Call {
  static constexpr size_t kMost = 6;
  napi_env env;
  Bindings& bindings;
  size_t count;                 // given by the caller
  const napi_value* arguments;  // at least kMost; undefined where fewer were given
  napi_value self = nullptr;    // the receiver of a method

  double number(size_t index, const char* name) const;
  int64_t integer(size_t index, const char* name, int64_t least, int64_t most) const;
  std::string string(size_t index, const char* name) const;
  // An array of integers; at most `out.size()` of them. Returns how many.
  size_t integers(size_t index, const char* name, std::span<int64_t> out) const;
  template <class T>
  T& object(size_t index, const char* name) const {
    Wrapped* wrapped = unwrap(bindings, arguments[index]);
    if (wrapped == nullptr || wrapped->kind != T::kKind) wrong(index, name, T::kName);
    return *static_cast<T*>(wrapped);
  }
  [[noreturn]] void wrong(size_t index, const char* name, const char* expected) const;

  napi_value undefined() const { return nullptr; }
  napi_value value(double number) const;
  napi_value value(const std::string& text) const;
  napi_value boolean(bool value) const;
};

// Runs body and throws what it throws as a JavaScript error with `code`.
template <class Body>
napi_value at_the_edge(napi_env env, const Body& body) {
  try {
    return body();
  } catch (const Failure& failure) {
    napi_throw(env, error_value(env, failure.code(), failure.what()));
  } catch (const Napi::Error& error) {
    error.ThrowAsJavaScriptException();
  } catch (const std::bad_alloc&) {
    napi_throw(env, error_value(env, kOutOfMemory, "The host has no memory left for this call."));
  } catch (const std::exception& error) {
    napi_throw(env, error_value(env, kInternal, error.what()));
  }
  return nullptr;
}

template <class T, napi_value (*body)(T&, Call&), size_t most = Call::kMost>
napi_value method(napi_env env, napi_callback_info info) {
  return at_the_edge(env, [&]() -> napi_value {
    void* data = nullptr;
    napi_value self = nullptr;
    size_t count = most;
    napi_value arguments[most];
    ok(env, napi_get_cb_info(env, info, &count, arguments, &self, &data));
    Bindings& bindings = *static_cast<Bindings*>(data);
    Wrapped* wrapped = unwrap(bindings, self);
    if (wrapped == nullptr || wrapped->kind != T::kKind)
      throw Failure(kInvalidArgument, std::string("The receiver is not a ") + T::kName + ".");
    Call call{env, bindings, count, arguments, self};
    return body(static_cast<T&>(*wrapped), call);
  });
}

template <class T, napi_value (*body)(T&, Call&), size_t most = Call::kMost>
napi_property_descriptor method_of(const char* name, Bindings& bindings) {
  return {name, nullptr, method<T, body, most>, nullptr, nullptr, nullptr, napi_default_method, &bindings};
}
template <class T, napi_value (*body)(T&, Call&)>
napi_property_descriptor getter_of(const char* name, Bindings& bindings) {
  return {name, nullptr, nullptr, method<T, body>, nullptr, nullptr, napi_enumerable, &bindings};
}

void define_class(Bindings& bindings, Kind kind, const char* name, const std::vector<napi_property_descriptor>& properties);
// A JavaScript object that owns `wrapped`.
napi_value new_object(Bindings& bindings, std::unique_ptr<Wrapped> wrapped);

}  // namespace kvasir::addon
