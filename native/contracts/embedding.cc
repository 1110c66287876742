// embedding: rows of a table by index.
#include <cstddef>

#include "ops.h"

namespace kvasir {
namespace {

using Args = kvasir_embedding_args;

constexpr Field kFields[] = {
    field::input("ids", offsetof(Args, ids)),
    field::input("table", offsetof(Args, table)),
    field::output("out", offsetof(Args, out)),
};

kvasir_status check(const void* raw, kvasir_error* err) {
  const Args& a = *static_cast<const Args*>(raw);
  Match m(err);
  Dim rows{"rows"}, vocab{"vocab"}, hidden{"hidden"};
  Type type{kComputeDtypes};
  m.dense("ids", a.ids, kOnlyI32, {&rows});
  m.rows("table", a.table, type, {&vocab, &hidden});
  m.expect(vocab.value >= 1 || rows.value == 0, "[SHAPE] table[vocab] is 0, expected at least 1 row to look up");
  m.rows("out", a.out, type, {&rows, &hidden});
  m.disjoint("out", a.out, "table", a.table).disjoint("out", a.out, "ids", a.ids);
  return m.status();
}

}  // namespace

constinit const Contract embedding_contract{"embedding", sizeof(Args), kFields, no_defaults, check};

}  // namespace kvasir
