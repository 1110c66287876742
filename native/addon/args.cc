#include "args.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "../contracts/contract.h"
#include "wraps.h"

namespace kvasir::addon {

namespace {

[[noreturn]] void wrong(Bindings& bindings, const Field& field, napi_value value, const char* expected) {
  throw Failure(kInvalidArgument, std::string(field.name) + " is " + in_words(bindings.env, value) + ", expected " + expected + ".");
}

void read_tensor(Bindings& bindings, const Stream& stream, const Field& field, napi_value value, Arguments& out) {
  Wrapped* wrapped = unwrap(bindings, value);
  if (wrapped == nullptr || wrapped->kind != Kind::tensor) wrong(bindings, field, value, "a tensor");
  const auto& tensor = static_cast<const TensorWrap&>(*wrapped);
  tensor.check_usable(field.name);
  if (tensor.storage->device() != stream.device()) {
    throw Failure(kInvalidArgument, std::string(field.name) + " lies on " + tensor.storage->device()->label() + ", expected a tensor of the stream's device, " +
                                        stream.device()->label() + "; copy it there first.");
  }
  std::memcpy(out.bytes + field.offset, &tensor.view, sizeof tensor.view);
  out.storages[out.tensors++] = &tensor.storage;
}

void read_scalar(Bindings& bindings, const Field& field, napi_value value, std::byte* to) {
  if (field.kind == FieldKind::boolean) {
    bool flag = false;
    if (napi_get_value_bool(bindings.env, value, &flag) != napi_ok) wrong(bindings, field, value, "true or false");
    const int32_t stored = flag ? 1 : 0;
    std::memcpy(to, &stored, sizeof stored);
    return;
  }
  double number = 0;
  if (napi_get_value_double(bindings.env, value, &number) != napi_ok) wrong(bindings, field, value, "a number");
  if (field.kind == FieldKind::f32) {
    const float stored = static_cast<float>(number);
    std::memcpy(to, &stored, sizeof stored);
    return;
  }
  using Limits = std::numeric_limits<int32_t>;
  if (!(number >= Limits::min() && number <= Limits::max() && number == std::floor(number))) wrong(bindings, field, value, "a 32-bit integer");
  const int32_t stored = static_cast<int32_t>(number);
  std::memcpy(to, &stored, sizeof stored);
}

}  // namespace

void intern_field_names(Bindings& bindings) {
  const napi_env env = bindings.env;
  napi_value all = nullptr;
  ok(env, napi_create_array(env, &all));
  uint32_t next = 0;
  for (const Contract& contract : contracts()) {
    if (contract.args_size > Arguments::kMostBytes || contract.fields.size() > INT32_MAX) throw Failure(kInternal, "An op's arguments are too large.");
    bindings.first_field.push_back(next);
    // The keys of an object are interned strings, which look up faster than fresh ones.
    napi_value object = nullptr, keys = nullptr, undefined = nullptr;
    ok(env, napi_create_object(env, &object));
    ok(env, napi_get_undefined(env, &undefined));
    size_t tensors = 0;
    for (const Field& field : contract.fields) {
      ok(env, napi_set_named_property(env, object, field.name, undefined));
      tensors += field.kind == FieldKind::tensor;
    }
    if (tensors > Arguments::kMostTensors) throw Failure(kInternal, "An op has too many tensors.");
    ok(env, napi_get_property_names(env, object, &keys));
    for (uint32_t i = 0; i < contract.fields.size(); ++i) {
      napi_value key = nullptr;
      ok(env, napi_get_element(env, keys, i, &key));
      ok(env, napi_set_element(env, all, next++, key));
    }
  }
  ok(env, napi_create_reference(env, all, 1, &bindings.field_names));
}

void read_arguments(Bindings& bindings, const Stream& stream, int op, napi_value object, Arguments& out) {
  const napi_env env = bindings.env;
  const Contract& contract = contracts()[static_cast<size_t>(op)];
  std::memset(out.bytes, 0, contract.args_size);
  if (contract.defaults != nullptr) contract.defaults(out.bytes);
  napi_valuetype type = napi_undefined;
  if (napi_typeof(env, object, &type) != napi_ok || type != napi_object) {
    throw Failure(kInvalidArgument, std::string("The arguments of ") + contract.name + " are " + in_words(env, object) + ", expected an object.");
  }
  napi_value names = nullptr;
  ok(env, napi_get_reference_value(env, bindings.field_names, &names));
  uint32_t index = bindings.first_field[static_cast<size_t>(op)];
  for (const Field& field : contract.fields) {
    napi_value name = nullptr, value = nullptr;
    ok(env, napi_get_element(env, names, index++, &name));
    ok(env, napi_get_property(env, object, name, &value));
    ok(env, napi_typeof(env, value, &type));
    if (type == napi_undefined) {
      if (field.required) throw Failure(kInvalidArgument, std::string(contract.name) + " needs " + field.name + ", which is missing.");
    } else if (field.kind == FieldKind::tensor) {
      read_tensor(bindings, stream, field, value, out);
    } else {
      read_scalar(bindings, field, value, out.bytes + field.offset);
    }
  }
  kvasir_error err;
  err.text[0] = '\0';
  check(contract.check(out.bytes, &err), err);
}

}  // namespace kvasir::addon
