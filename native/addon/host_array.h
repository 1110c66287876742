// Typed arrays of JavaScript whose memory native code may read or write in place.
#pragma once
#include <cstddef>

#include "wrap.h"

namespace kvasir::addon {

struct HostArray {
  void* data = nullptr;
  size_t bytes = 0;
  napi_typedarray_type type = napi_uint8_array;
};

// The bytes of a typed array of elements of `width` bytes whose memory stays where it is: neither shared with other threads, nor
// detached, nor resizable.
HostArray host_array(const Call& call, size_t index, const char* name, size_t width);

}  // namespace kvasir::addon
