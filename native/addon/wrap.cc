#include "wrap.h"

#include <cmath>

namespace kvasir::addon {

namespace {

napi_value construct(napi_env env, napi_callback_info info) {
  napi_value self = nullptr;
  napi_get_cb_info(env, info, nullptr, nullptr, &self, nullptr);
  return self;
}

void finalize(napi_env, void* data, void*) {
  auto* wrapped = static_cast<Wrapped*>(data);
  const std::shared_ptr<Bindings> bindings = wrapped->bindings;
  bindings->alive.erase(wrapped);
  delete wrapped;
}

std::string text_of(napi_env env, napi_value value) {
  size_t length = 0;
  napi_get_value_string_utf8(env, value, nullptr, 0, &length);
  std::string text(length, '\0');
  napi_get_value_string_utf8(env, value, text.data(), length + 1, &length);
  return text;
}

std::string constructor_name(napi_env env, napi_value value) {
  napi_value constructor = nullptr, name = nullptr;
  napi_valuetype type = napi_undefined;
  if (napi_get_named_property(env, value, "constructor", &constructor) == napi_ok &&
      napi_typeof(env, constructor, &type) == napi_ok && type == napi_function &&
      napi_get_named_property(env, constructor, "name", &name) == napi_ok && napi_typeof(env, name, &type) == napi_ok &&
      type == napi_string) {
    return text_of(env, name);
  }
  return "object";
}

}  // namespace

std::string in_words(napi_env env, napi_value value) {
  napi_valuetype type = napi_undefined;
  if (value == nullptr || napi_typeof(env, value, &type) != napi_ok) return "undefined";
  switch (type) {
    case napi_undefined: return "undefined";
    case napi_null: return "null";
    case napi_boolean: {
      bool truth = false;
      napi_get_value_bool(env, value, &truth);
      return truth ? "true" : "false";
    }
    case napi_number: {
      napi_value text = nullptr;
      napi_coerce_to_string(env, value, &text);
      return "the number " + text_of(env, text);
    }
    case napi_string: {
      const std::string text = text_of(env, value);
      return "the string \"" + (text.size() > 40 ? text.substr(0, 40) + "..." : text) + "\"";
    }
    case napi_symbol: return "a symbol";
    case napi_function: return "a function";
    case napi_bigint: return "a bigint";
    case napi_object:
    case napi_external: break;
  }
  return "an object of class " + constructor_name(env, value);
}

Wrapped* unwrap(Bindings& bindings, napi_value value) {
  void* data = nullptr;
  if (value == nullptr || napi_unwrap(bindings.env, value, &data) != napi_ok) return nullptr;
  auto* wrapped = static_cast<Wrapped*>(data);
  return bindings.alive.contains(wrapped) ? wrapped : nullptr;
}

void Call::wrong(size_t index, const char* name, const char* expected) const {
  throw Failure(kInvalidArgument, std::string(name) + " is " + in_words(env, index < count ? arguments[index] : nullptr) +
                                      ", expected a " + expected + ".");
}

double Call::number(size_t index, const char* name) const {
  double number = 0;
  if (napi_get_value_double(env, arguments[index], &number) != napi_ok) wrong(index, name, "number");
  return number;
}

int64_t Call::integer(size_t index, const char* name, int64_t least, int64_t most) const {
  const double given = number(index, name);
  if (given == std::floor(given) && given >= static_cast<double>(least) && given <= static_cast<double>(most))
    return static_cast<int64_t>(given);
  throw Failure(kInvalidArgument, std::string(name) + " is " + in_words(env, arguments[index]) + ", expected an integer in " +
                                      std::to_string(least) + ".." + std::to_string(most) + ".");
}

std::string Call::string(size_t index, const char* name) const {
  napi_valuetype type = napi_undefined;
  if (napi_typeof(env, arguments[index], &type) != napi_ok || type != napi_string) wrong(index, name, "string");
  return text_of(env, arguments[index]);
}

size_t Call::integers(size_t index, const char* name, std::span<int64_t> out) const {
  bool is_array = false;
  if (napi_is_array(env, arguments[index], &is_array) != napi_ok || !is_array) wrong(index, name, "array of integers");
  uint32_t length = 0;
  ok(env, napi_get_array_length(env, arguments[index], &length));
  if (length > out.size()) {
    throw Failure(kInvalidArgument, std::string(name) + " has " + std::to_string(length) + " entries, expected at most " +
                                        std::to_string(out.size()) + ".");
  }
  for (uint32_t i = 0; i < length; ++i) {
    napi_value entry = nullptr;
    double number = 0;
    ok(env, napi_get_element(env, arguments[index], i, &entry));
    constexpr double kMost = 9007199254740991;
    if (napi_get_value_double(env, entry, &number) != napi_ok || number != std::floor(number) || number < 0 || number > kMost) {
      throw Failure(kInvalidArgument, std::string(name) + "[" + std::to_string(i) + "] is " + in_words(env, entry) +
                                          ", expected an integer of at least 0.");
    }
    out[i] = static_cast<int64_t>(number);
  }
  return length;
}

napi_value Call::value(double number) const {
  napi_value out = nullptr;
  ok(env, napi_create_double(env, number, &out));
  return out;
}

napi_value Call::value(const std::string& text) const {
  napi_value out = nullptr;
  ok(env, napi_create_string_utf8(env, text.c_str(), text.size(), &out));
  return out;
}

napi_value Call::boolean(bool value) const {
  napi_value out = nullptr;
  ok(env, napi_get_boolean(env, value, &out));
  return out;
}

void define_class(Bindings& bindings, Kind kind, const char* name, const std::vector<napi_property_descriptor>& properties) {
  napi_value constructor = nullptr;
  ok(bindings.env, napi_define_class(bindings.env, name, NAPI_AUTO_LENGTH, construct, nullptr, properties.size(),
                                     properties.data(), &constructor));
  ok(bindings.env, napi_create_reference(bindings.env, constructor, 1, &bindings.constructors[static_cast<int>(kind)]));
}

napi_value new_object(Bindings& bindings, std::unique_ptr<Wrapped> wrapped) {
  napi_value constructor = nullptr, object = nullptr;
  ok(bindings.env, napi_get_reference_value(bindings.env, bindings.constructors[static_cast<int>(wrapped->kind)], &constructor));
  ok(bindings.env, napi_new_instance(bindings.env, constructor, 0, nullptr, &object));
  ok(bindings.env, napi_wrap(bindings.env, object, wrapped.get(), finalize, nullptr, nullptr));
  bindings.alive.insert(wrapped.get());
  wrapped.release();
  return object;
}

}  // namespace kvasir::addon
