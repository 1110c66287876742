// Ends a launcher: the status of everything launched so far, as `return launched(stream, "rms_norm", err)`.
#pragma once
#include "../../native/core/status.h"
#include "../runtime/stream.h"

namespace kvasir::cuda {

inline kvasir_status launched(kvasir_stream* stream, const char* op, kvasir_error* err) {
  const cudaError_t result = cudaGetLastError();
  return result == cudaSuccess ? KVASIR_OK : stream->device().check(result, op, err);
}

// The same for a call that returned its status.
inline kvasir_status checked(kvasir_stream* stream, cudaError_t result, const char* op, kvasir_error* err) {
  return result == cudaSuccess ? KVASIR_OK : stream->device().check(result, op, err);
}

}  // namespace kvasir::cuda
