// Keys of a sequence's full pages, from JavaScript's token ids; native/core/page_key.h says what a key is.
#pragma once
#include "wrap.h"

namespace kvasir::addon {

// (tokens: Int32Array, pageSize, parent: Uint32Array of 4) -> a promise of the keys, 16 bytes each, in an ArrayBuffer.
napi_value page_keys(Call& call);
// The same at once; for at most 4096 tokens, so that JavaScript is not held up.
napi_value page_keys_sync(Call& call);

}  // namespace kvasir::addon
