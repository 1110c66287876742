// Host memory that the GPUs of this process read and write directly: what was allocated or registered through any device.
#pragma once
#include <cstddef>

#include "device.h"

namespace kvasir::cuda {

kvasir_status host_alloc(kvasir_device&, size_t bytes, void** out, kvasir_error*);
void host_free(kvasir_device&, void*);
kvasir_status host_register(kvasir_device&, void*, size_t bytes, kvasir_error*);
void host_unregister(kvasir_device&, void*);

// Whether all of the range lies in such memory: in one piece, or in several that follow each other.
bool is_pinned(const void*, size_t bytes);
// Bytes of the range, from its start, that lie in one piece; 0: the start is not pinned. A copy engine takes one piece at a time.
size_t pinned_piece(const void*, size_t bytes);

}  // namespace kvasir::cuda
