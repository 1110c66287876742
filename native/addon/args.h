// Fills an op's argument struct from a JavaScript object, by the op's contract.
#pragma once
#include <array>
#include <cstddef>
#include <memory>
#include <span>

#include "bindings.h"
#include "memory.h"
#include "stream.h"

namespace kvasir::addon {

struct Arguments {
  static constexpr size_t kMostBytes = 2048;
  static constexpr size_t kMostTensors = 24;
  alignas(64) std::byte bytes[kMostBytes];
  std::array<const std::shared_ptr<Storage>*, kMostTensors> storages;
  size_t tensors = 0;
  std::span<const std::shared_ptr<Storage>* const> used() const { return {storages.data(), tensors}; }
};

// Interns the field names of all ops; once per environment.
void intern_field_names(Bindings& bindings);

// Reads and checks. The storages point into the tensors of `object`, which the caller's handle scope keeps alive.
void read_arguments(Bindings& bindings, const Stream& stream, int op, napi_value object, Arguments& out);

}  // namespace kvasir::addon
