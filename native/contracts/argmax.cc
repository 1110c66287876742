// argmax over the last dimension.
#include <cstddef>

#include "ops.h"

namespace kvasir {
namespace {

using Args = kvasir_argmax_args;

constexpr Field kFields[] = {
    field::input("logits", offsetof(Args, logits)),
    field::output("out", offsetof(Args, out)),
};

kvasir_status check(const void* raw, kvasir_error* err) {
  const Args& a = *static_cast<const Args*>(raw);
  Match m(err);
  Dim rows{"rows"}, vocab{"vocab"};
  Type type{kComputeDtypes};
  m.rows("logits", a.logits, type, {&rows, &vocab});
  m.expect(vocab.value >= 1, "[SHAPE] %s[vocab] is 0, expected at least 1", vocab.from);
  m.dense("out", a.out, kOnlyI32, {&rows});
  m.disjoint("out", a.out, "logits", a.logits);
  return m.status();
}

}  // namespace

constinit const Contract argmax_contract{"argmax", sizeof(Args), kFields, no_defaults, check};

}  // namespace kvasir
