// Pages between slots of a tensor in host memory and a staging SharedArrayBuffer, from which another JavaScript thread sends and
// receives them. A native thread of its own copies, so that neither JavaScript nor the background thread waits for memory.
//
// A staged page is its envelope (native/core/page_envelope.h) and the payload behind it.
#pragma once
#include "wrap.h"

namespace kvasir::addon {

inline constexpr size_t kSealArguments = 10, kOpenArguments = 11;

// (pool, slots: Int32Array, staging: Uint8Array, offsets: Float64Array, fingerprint: Uint8Array of 16, group, pageSize,
// keys: Uint32Array, parents: Uint32Array, tokens: Int32Array) -> promise. Slots must not change meanwhile.
napi_value seal_pages(Call& call);
// The same, and lengths: Float64Array, the bytes that arrived -> promise of an ArrayBuffer with one byte a page: 0 for a page
// that is the one asked for, and whole; else the EnvelopeField that differs, and the slot holds garbage.
napi_value open_pages(Call& call);
// (pageSize) -> bytes of the envelope before a payload.
napi_value envelope_size(Call& call);

}  // namespace kvasir::addon
