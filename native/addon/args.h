// Fills an op's argument struct from the call's values, by the op's contract. Values come one for each field, in the contract's
// order: reading thirty properties of an object through Node-API would cost more than all the rest of an enqueue.
#pragma once
#include <array>
#include <cstddef>
#include <memory>
#include <span>

#include "memory.h"
#include "stream.h"
#include "wrap.h"

namespace kvasir::addon {

struct Arguments {
  static constexpr size_t kMostBytes = 2048;
  static constexpr size_t kMostFields = 40;
  static constexpr size_t kMostTensors = 24;
  alignas(64) std::byte bytes[kMostBytes];
  std::array<const std::shared_ptr<Storage>*, kMostTensors> storages;
  size_t tensors = 0;
  std::span<const std::shared_ptr<Storage>* const> used() const { return {storages.data(), tensors}; }
};

// Throws if an op's contract does not fit the limits above; once per environment.
void check_argument_sizes();

// Reads and checks the values from argument `first` of the call on. The storages point into the call's tensors.
void read_arguments(Call& call, size_t first, const Stream& stream, int op, Arguments& out);

}  // namespace kvasir::addon
