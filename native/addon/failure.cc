#include "failure.h"

#include <cstring>

namespace kvasir::addon {

namespace {

const char* code_of(kvasir_status status) {
  switch (status) {
    case KVASIR_INVALID_ARGUMENT: return kInvalidArgument;
    case KVASIR_UNSUPPORTED: return kUnsupported;
    case KVASIR_OUT_OF_MEMORY: return kOutOfMemory;
    case KVASIR_DEVICE_LOST: return kDeviceLost;
    case KVASIR_UNAVAILABLE: return kUnavailable;
    case KVASIR_OK:
    case KVASIR_INTERNAL: break;
  }
  return kInternal;
}

struct Prefix {
  const char* text;
  const char* code;
};
constexpr Prefix kPrefixes[] = {{"[SHAPE] ", "ERR_KVASIR_SHAPE"}, {"[DTYPE] ", "ERR_KVASIR_DTYPE"}};

}  // namespace

Failure::Failure(kvasir_status status, const char* text) : code_(code_of(status)), sentence_(text) {
  for (const Prefix& prefix : kPrefixes) {
    const size_t length = std::strlen(prefix.text);
    if (sentence_.compare(0, length, prefix.text) != 0) continue;
    code_ = prefix.code;
    sentence_.erase(0, length);
  }
}

}  // namespace kvasir::addon
