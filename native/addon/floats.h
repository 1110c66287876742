// Conversions between JavaScript's float32 arrays and the bits of a float dtype.
#pragma once
#include "wrap.h"

namespace kvasir::addon {

napi_value encode_floats(Call& call);
napi_value decode_floats(Call& call);

}  // namespace kvasir::addon
