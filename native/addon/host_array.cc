#include "host_array.h"

namespace kvasir::addon {

HostArray host_array(const Call& call, size_t index, const char* name, size_t width) {
  const napi_value value = call.arguments[index];
  bool is_typed = false, is_plain = false, is_detached = false;
  if (napi_is_typedarray(call.env, value, &is_typed) != napi_ok || !is_typed) call.wrong(index, name, "typed array");
  size_t length = 0, offset = 0;
  napi_value buffer = nullptr;
  HostArray array;
  ok(call.env, napi_get_typedarray_info(call.env, value, &array.type, &length, &array.data, &buffer, &offset));
  ok(call.env, napi_is_arraybuffer(call.env, buffer, &is_plain));
  if (!is_plain)
    throw Failure(
        kInvalidArgument,
        std::string(name) + " is backed by a SharedArrayBuffer, expected an array with memory of its own; copy it first.");
  ok(call.env, napi_is_detached_arraybuffer(call.env, buffer, &is_detached));
  if (is_detached)
    throw Failure(kInvalidArgument, std::string(name) + " is detached: its memory was transferred elsewhere; pass a live array.");
  napi_value resizable = nullptr;
  bool is_resizable = false;
  ok(call.env, napi_get_named_property(call.env, buffer, "resizable", &resizable));
  if (napi_get_value_bool(call.env, resizable, &is_resizable) == napi_ok && is_resizable) {
    throw Failure(kInvalidArgument,
                  std::string(name) + " is backed by a resizable ArrayBuffer, expected one of fixed length; copy it first.");
  }
  napi_value element = nullptr;
  double element_bytes = 0;
  ok(call.env, napi_get_named_property(call.env, value, "BYTES_PER_ELEMENT", &element));
  ok(call.env, napi_get_value_double(call.env, element, &element_bytes));
  if (static_cast<size_t>(element_bytes) != width) {
    throw Failure("ERR_KVASIR_DTYPE", std::string(name) + " is " + in_words(call.env, value) + " with elements of " +
                                          std::to_string(static_cast<int>(element_bytes)) + " bytes, expected " +
                                          std::to_string(width) + " bytes each.");
  }
  array.bytes = length * width;
  return array;
}

}  // namespace kvasir::addon
