// Runs a plan: one table from head_dim to launchers, then the combine step where the keys were split.
#include <cstddef>

#include "params.h"
#include "shapes.h"

namespace kvasir::cuda {
namespace {

struct TensorCoreLaunchers {
  int head_dim;
  cudaError_t (*prefill)(const AttentionPlan&, cudaStream_t);
  cudaError_t (*folded)(const AttentionPlan&, cudaStream_t);
  cudaError_t (*decode)(const AttentionPlan&, cudaStream_t);
};

constexpr TensorCoreLaunchers kLaunchers[] = {
    {64, launch_prefill_d64, launch_folded_d64, launch_decode_d64},
    {96, launch_prefill_d96, launch_folded_d96, launch_decode_d96},
    {128, launch_prefill_d128, launch_folded_d128, launch_decode_d128},
    {192, launch_prefill_d192, launch_folded_d192, launch_decode_d192},
    {256, launch_prefill_d256, launch_folded_d256, launch_decode_d256},
};

constexpr bool covers_shapes() {
  if (sizeof kLaunchers / sizeof kLaunchers[0] != sizeof kTensorCoreShapes / sizeof kTensorCoreShapes[0]) return false;
  for (size_t i = 0; i < sizeof kLaunchers / sizeof kLaunchers[0]; ++i) {
    if (kLaunchers[i].head_dim != kTensorCoreShapes[i].head_dim) return false;
  }
  return true;
}
static_assert(covers_shapes(), "every shape needs its launchers");

cudaError_t launch_main(const AttentionPlan& plan, cudaStream_t stream) {
  if (plan.kernel == AttentionKernel::simt) return launch_simt(plan, stream);
  for (const TensorCoreLaunchers& e : kLaunchers) {
    if (e.head_dim != plan.params.head_dim) continue;
    if (plan.kernel == AttentionKernel::decode) return e.decode(plan, stream);
    return plan.folded ? e.folded(plan, stream) : e.prefill(plan, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t run_attention(AttentionPlan plan, const Hardware& hardware, void* workspace, void* mailbox, cudaStream_t stream) {
  AttentionParams& p = plan.params;
  if (p.total_q == 0 || p.num_qo_heads == 0 || p.batch == 0) return cudaSuccess;
  if (plan.kernel == AttentionKernel::decode && p.num_splits == 0) {
    p.join_through(mailbox, workspace);
    return launch_main(plan, stream);
  }
  if (plan.folded) {
    p.fold_through(workspace);
  } else if (p.num_splits > 1) {
    p.part_out = static_cast<float*>(workspace);
    p.part_lse = p.part_out + p.num_splits * p.part_rows * p.num_qo_heads * p.head_dim;
  }
  const cudaError_t status = launch_main(plan, stream);
  if (status != cudaSuccess || p.num_splits == 1) return status;
  return plan.folded ? launch_fold(plan, hardware, stream) : launch_combine(plan, hardware, stream);
}

}  // namespace kvasir::cuda
