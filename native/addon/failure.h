// An error on its way to JavaScript: a code of lib/errors.ts and one sentence.
#pragma once
#include <exception>
#include <string>
#include <utility>

#include "../abi/kvasir_abi.h"

namespace kvasir::addon {

class Failure : public std::exception {
 public:
  Failure(const char* code, std::string sentence) : code_(code), sentence_(std::move(sentence)) {}
  // From a status of the ABI. A contract's sentence may open with "[SHAPE] " or "[DTYPE] ", which choose a finer code.
  Failure(kvasir_status status, const char* text);
  const char* code() const { return code_; }
  const char* what() const noexcept override { return sentence_.c_str(); }

 private:
  const char* code_;  // a literal
  std::string sentence_;
};

inline void check(kvasir_status status, const kvasir_error& err) {
  if (status != KVASIR_OK) throw Failure(status, err.text);
}

inline constexpr char kInvalidArgument[] = "ERR_KVASIR_INVALID_ARGUMENT";
inline constexpr char kDisposed[] = "ERR_KVASIR_DISPOSED";
inline constexpr char kUnsupported[] = "ERR_KVASIR_UNSUPPORTED";
inline constexpr char kOutOfMemory[] = "ERR_KVASIR_OUT_OF_MEMORY";
inline constexpr char kDeviceLost[] = "ERR_KVASIR_DEVICE_LOST";
inline constexpr char kUnavailable[] = "ERR_KVASIR_BACKEND_UNAVAILABLE";
inline constexpr char kCorruptFile[] = "ERR_KVASIR_CORRUPT_FILE";
inline constexpr char kInternal[] = "ERR_KVASIR_INTERNAL";

}  // namespace kvasir::addon
