// cross_entropy: the negative log likelihood of one target a row.
#include <cstddef>

#include "ops.h"

namespace kvasir {
namespace {

using Args = kvasir_cross_entropy_args;

constexpr Field kFields[] = {
    field::input("logits", offsetof(Args, logits)),
    field::input("targets", offsetof(Args, targets)),
    field::output("nll", offsetof(Args, nll)),
};

kvasir_status check(const void* raw, kvasir_error* err) {
  const Args& a = *static_cast<const Args*>(raw);
  Match m(err);
  Dim rows{"rows"}, vocab{"vocab"};
  Type type{kComputeDtypes};
  m.rows("logits", a.logits, type, {&rows, &vocab});
  m.expect(vocab.value >= 1, "[SHAPE] %s[vocab] is 0, expected at least 1", vocab.from);
  m.dense("targets", a.targets, kOnlyI32, {&rows}).dense("nll", a.nll, kOnlyF32, {&rows});
  m.disjoint("nll", a.nll, "logits", a.logits).disjoint("nll", a.nll, "targets", a.targets);
  return m.status();
}

}  // namespace

constinit const Contract cross_entropy_contract{"cross_entropy", sizeof(Args), kFields, no_defaults, check};

}  // namespace kvasir
