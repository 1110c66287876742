// Host memory that the GPUs of this process read and write directly: what was allocated or registered through any device.
#pragma once
#include <cstddef>

#include "device.h"

namespace kvasir::cuda {

kvasir_status host_alloc(kvasir_device&, size_t bytes, void** out, kvasir_error*);
void host_free(kvasir_device&, void*);
kvasir_status host_register(kvasir_device&, void*, size_t bytes, kvasir_error*);
void host_unregister(kvasir_device&, void*);

// Whether all of the range lies in one such piece of memory.
bool is_pinned(const void*, size_t bytes);

}  // namespace kvasir::cuda
