// sample: one token a row; every setting is a vector over rows, so that requests differ and change without a new recording.
#include <cstddef>

#include "ops.h"

namespace kvasir {
namespace {

using Args = kvasir_sample_args;

constexpr Field kFields[] = {
    field::input("logits", offsetof(Args, logits)),
    field::optional_input("temperature", offsetof(Args, temperature)),
    field::optional_input("topK", offsetof(Args, top_k)),
    field::optional_input("topP", offsetof(Args, top_p)),
    field::optional_input("seed", offsetof(Args, seed)),
    field::optional_input("step", offsetof(Args, step)),
    field::output("out", offsetof(Args, out)),
};

kvasir_status check(const void* raw, kvasir_error* err) {
  const Args& a = *static_cast<const Args*>(raw);
  Match m(err);
  Dim rows{"rows"}, vocab{"vocab"};
  Type type{kComputeDtypes};
  m.rows("logits", a.logits, type, {&rows, &vocab});
  m.expect(vocab.value >= 1, "[SHAPE] %s[vocab] is 0, expected at least 1", vocab.from);
  m.dense("temperature", a.temperature, kOnlyF32, {&rows}).dense("topK", a.top_k, kOnlyI32, {&rows});
  m.dense("topP", a.top_p, kOnlyF32, {&rows}).dense("seed", a.seed, kOnlyI32, {&rows}).dense("step", a.step, kOnlyI32, {&rows});
  m.dense("out", a.out, kOnlyI32, {&rows});
  m.disjoint("out", a.out, "logits", a.logits).disjoint("out", a.out, "seed", a.seed).disjoint("out", a.out, "step", a.step);
  return m.status();
}

}  // namespace

constinit const Contract sample_contract{"sample", sizeof(Args), kFields, no_defaults, check};

}  // namespace kvasir
