#include "args.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "../contracts/contract.h"
#include "wraps.h"

namespace kvasir::addon {

namespace {

[[noreturn]] void wrong(Bindings& bindings, const Field& field, napi_value value, const char* expected) {
  throw Failure(kInvalidArgument,
                std::string(field.name) + " is " + in_words(bindings.env, value) + ", expected " + expected + ".");
}

void read_tensor(Bindings& bindings, const Stream& stream, const Field& field, napi_value value, Arguments& out) {
  Wrapped* wrapped = unwrap(bindings, value);
  if (wrapped == nullptr || wrapped->kind != Kind::tensor) wrong(bindings, field, value, "a tensor");
  const auto& tensor = static_cast<const TensorWrap&>(*wrapped);
  tensor.check_usable(field.name);
  if (tensor.storage->device() != stream.device()) {
    throw Failure(kInvalidArgument, std::string(field.name) + " lies on " + tensor.storage->device()->label() +
                                        ", expected a tensor of the stream's device, " + stream.device()->label() +
                                        "; copy it there first.");
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
  if (!(number >= Limits::min() && number <= Limits::max() && number == std::floor(number)))
    wrong(bindings, field, value, "a 32-bit integer");
  const int32_t stored = static_cast<int32_t>(number);
  std::memcpy(to, &stored, sizeof stored);
}

}  // namespace

void check_argument_sizes() {
  for (const Contract& contract : contracts()) {
    size_t tensors = 0;
    for (const Field& field : contract.fields) tensors += field.kind == FieldKind::tensor;
    if (contract.args_size > Arguments::kMostBytes || contract.fields.size() > Arguments::kMostFields ||
        tensors > Arguments::kMostTensors) {
      throw Failure(kInternal, std::string("The contract of ") + contract.name + " exceeds the addon's limits.");
    }
  }
}

void read_arguments(Call& call, size_t first, const Stream& stream, int op, Arguments& out) {
  const Contract& contract = contracts()[static_cast<size_t>(op)];
  std::memset(out.bytes, 0, contract.args_size);
  if (contract.defaults != nullptr) contract.defaults(out.bytes);
  const napi_value* value = call.arguments + first;
  for (const Field& field : contract.fields) {
    napi_valuetype type = napi_undefined;
    ok(call.env, napi_typeof(call.env, *value, &type));
    if (type == napi_undefined) {
      if (field.required)
        throw Failure(kInvalidArgument, std::string(contract.name) + " needs " + field.name + ", which is missing.");
    } else if (field.kind == FieldKind::tensor) {
      read_tensor(call.bindings, stream, field, *value, out);
    } else {
      read_scalar(call.bindings, field, *value, out.bytes + field.offset);
    }
    ++value;
  }
  kvasir_error err;
  err.text[0] = '\0';
  check(contract.check(out.bytes, &err), err);
}

}  // namespace kvasir::addon
