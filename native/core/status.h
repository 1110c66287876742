// Builds the one sentence of a kvasir_error and hands its status on: `return fail(err, KVASIR_INVALID_ARGUMENT, "...", ...)`.
#pragma once
#include <cstdarg>
#include <cstdio>

#include "../abi/kvasir_abi.h"

namespace kvasir {

#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
inline kvasir_status
fail(kvasir_error* err, kvasir_status status, const char* format, ...) {
  if (err != nullptr) {
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
  }
  return status;
}

}  // namespace kvasir
