// compare_logits: two models' predictions, row by row; their dtypes may differ.
#include <cstddef>

#include "ops.h"

namespace kvasir {
namespace {

using Args = kvasir_compare_logits_args;

constexpr Field kFields[] = {
    field::input("reference", offsetof(Args, reference)),
    field::input("logits", offsetof(Args, logits)),
    field::output("kl", offsetof(Args, kl)),
    field::output("agree", offsetof(Args, agree)),
};

kvasir_status check(const void* raw, kvasir_error* err) {
  const Args& a = *static_cast<const Args*>(raw);
  Match m(err);
  Dim rows{"rows"}, vocab{"vocab"};
  m.dtype("reference", a.reference, kComputeDtypes)
      .shape("reference", a.reference, {&rows, &vocab})
      .contiguous_rows("reference", a.reference);
  m.dtype("logits", a.logits, kComputeDtypes).shape("logits", a.logits, {&rows, &vocab}).contiguous_rows("logits", a.logits);
  m.expect(vocab.value >= 1, "[SHAPE] %s[vocab] is 0, expected at least 1", vocab.from);
  m.dense("kl", a.kl, kOnlyF32, {&rows}).dense("agree", a.agree, kOnlyI32, {&rows});
  m.disjoint("kl", a.kl, "reference", a.reference)
      .disjoint("kl", a.kl, "logits", a.logits)
      .disjoint("kl", a.kl, "agree", a.agree);
  m.disjoint("agree", a.agree, "reference", a.reference).disjoint("agree", a.agree, "logits", a.logits);
  return m.status();
}

}  // namespace

constinit const Contract compare_logits_contract{"compare_logits", sizeof(Args), kFields, no_defaults, check};

}  // namespace kvasir
