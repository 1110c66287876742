// All contracts, in the order of kvasir_op_id.
#include <array>

#include "ops.h"

namespace kvasir {

std::span<const Contract> contracts() {
  static const std::array<Contract, KVASIR_OP_COUNT> table = [] {
    std::array<Contract, KVASIR_OP_COUNT> t{};
    t[KVASIR_OP_ATTENTION] = attention_contract;
    t[KVASIR_OP_ATTENTION_REFERENCE] = attention_reference_contract;
    t[KVASIR_OP_MERGE] = merge_contract;
    t[KVASIR_OP_APPEND] = append_contract;
    t[KVASIR_OP_ROPE] = rope_contract;
    t[KVASIR_OP_RMS_NORM] = rms_norm_contract;
    t[KVASIR_OP_SILU_MUL] = silu_mul_contract;
    t[KVASIR_OP_EMBEDDING] = embedding_contract;
    t[KVASIR_OP_LINEAR] = linear_contract;
    t[KVASIR_OP_ARGMAX] = argmax_contract;
    t[KVASIR_OP_SAMPLE] = sample_contract;
    t[KVASIR_OP_ADVANCE] = advance_contract;
    t[KVASIR_OP_CROSS_ENTROPY] = cross_entropy_contract;
    t[KVASIR_OP_COMPARE_LOGITS] = compare_logits_contract;
    t[KVASIR_OP_CAST] = cast_contract;
    t[KVASIR_OP_PROBE_READ] = probe_read_contract;
    t[KVASIR_OP_PROBE_FMA] = probe_fma_contract;
    return t;
  }();
  return table;
}

}  // namespace kvasir
