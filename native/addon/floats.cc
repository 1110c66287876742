#include "floats.h"

#include "../core/dtype.h"

namespace kvasir::addon {

namespace {

struct View {
  void* data = nullptr;
  size_t length = 0;
};

View typed_array(Call& call, size_t index, const char* name, napi_typedarray_type expected, const char* words) {
  bool is_typed = false;
  napi_typedarray_type type = napi_uint8_array;
  View view;
  if (napi_is_typedarray(call.env, call.arguments[index], &is_typed) != napi_ok || !is_typed) call.wrong(index, name, words);
  ok(call.env, napi_get_typedarray_info(call.env, call.arguments[index], &type, &view.length, &view.data, nullptr, nullptr));
  if (type != expected) call.wrong(index, name, words);
  return view;
}

View new_array(Call& call, napi_typedarray_type type, size_t width, size_t length, napi_value* array) {
  View view{nullptr, length};
  napi_value buffer = nullptr;
  ok(call.env, napi_create_arraybuffer(call.env, length * width, &view.data, &buffer));
  ok(call.env, napi_create_typedarray(call.env, type, length, buffer, 0, array));
  return view;
}

template <class To, class From, class Convert>
void convert_all(const View& to, const View& from, const Convert& convert) {
  for (size_t i = 0; i < from.length; ++i) static_cast<To*>(to.data)[i] = convert(static_cast<const From*>(from.data)[i]);
}

int float_dtype(Call& call) {
  const int dtype = static_cast<int>(call.integer(0, "dtype", KVASIR_F32, KVASIR_I8));
  if (dtype >= KVASIR_F16 && dtype <= KVASIR_F8E5M2) return dtype;
  throw Failure("ERR_KVASIR_DTYPE", std::string("dtype is ") + dtype_name(dtype) + ", expected f16, bf16, f8e4m3 or f8e5m2.");
}

}  // namespace

napi_value encode_floats(Call& call) {
  const int dtype = float_dtype(call);
  const View from = typed_array(call, 1, "values", napi_float32_array, "Float32Array");
  const bool wide = dtype_bytes(dtype) == 2;
  napi_value array = nullptr;
  const View to = new_array(call, wide ? napi_uint16_array : napi_uint8_array, wide ? 2 : 1, from.length, &array);
  switch (dtype) {
    case KVASIR_F16: convert_all<uint16_t, float>(to, from, float_to_f16); break;
    case KVASIR_BF16: convert_all<uint16_t, float>(to, from, float_to_bf16); break;
    case KVASIR_F8E4M3: convert_all<uint8_t, float>(to, from, float_to_f8e4m3); break;
    default: convert_all<uint8_t, float>(to, from, float_to_f8e5m2); break;
  }
  return array;
}

napi_value decode_floats(Call& call) {
  const int dtype = float_dtype(call);
  const bool wide = dtype_bytes(dtype) == 2;
  const View from =
      typed_array(call, 1, "bits", wide ? napi_uint16_array : napi_uint8_array, wide ? "Uint16Array" : "Uint8Array");
  napi_value array = nullptr;
  const View to = new_array(call, napi_float32_array, 4, from.length, &array);
  switch (dtype) {
    case KVASIR_F16: convert_all<float, uint16_t>(to, from, f16_to_float); break;
    case KVASIR_BF16: convert_all<float, uint16_t>(to, from, bf16_to_float); break;
    case KVASIR_F8E4M3: convert_all<float, uint8_t>(to, from, f8e4m3_to_float); break;
    default: convert_all<float, uint8_t>(to, from, f8e5m2_to_float); break;
  }
  return array;
}

}  // namespace kvasir::addon
