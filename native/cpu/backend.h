// The CPU backend's table of the ABI; it is always there, linked into the addon.
#pragma once
#include "../abi/kvasir_abi.h"

namespace kvasir::cpu {

const kvasir_backend* backend();

}  // namespace kvasir::cpu
