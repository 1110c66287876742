// What an op accepts, said once: the fields of its argument struct by their JavaScript names, its defaults, and its check. The
// addon fills the struct from a JavaScript object by this table, so that a new op needs no glue code; both backends rely on the
// check.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "../abi/kvasir_abi.h"

namespace kvasir {

enum class FieldKind { tensor, f32, i32, boolean };
enum class Access { read, write, read_write };

struct Field {
  const char* name;  // as in JavaScript: "qoIndptr"
  FieldKind kind;
  uint32_t offset;  // in the argument struct
  bool required;
  Access access = Access::read;  // tensors only
};

struct Contract {
  const char* name;  // "attention"
  size_t args_size;
  std::span<const Field> fields;
  // Sets what is not zero by default. Called before the fields are filled.
  void (*defaults)(void* args);
  // Every rule on shapes, dtypes and values that needs no device data. KVASIR_OK, or a sentence that names argument, value and
  // remedy.
  kvasir_status (*check)(const void* args, kvasir_error*);
};

// Indexed by kvasir_op_id, KVASIR_OP_COUNT entries.
std::span<const Contract> contracts();

}  // namespace kvasir
