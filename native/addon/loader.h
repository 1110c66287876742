// Finds the backends: the CPU's is linked in, CUDA's is a library beside the addon, loaded once per process and never unloaded.
#pragma once
#include <string>

#include "../abi/kvasir_abi.h"

namespace kvasir::addon {

struct Loaded {
  const kvasir_backend* backend = nullptr;
  std::string reason;  // why there is none, in one sentence
};

// "cpu" or "cuda".
const Loaded& load_backend(const std::string& name);

}  // namespace kvasir::addon
