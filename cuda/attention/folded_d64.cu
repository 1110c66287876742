// Batch-invariant prefill kernels at head_dim 64: one file a head_dim, so that they compile side by side.
#include "instantiate_prefill.cuh"

namespace kvasir::cuda {

cudaError_t launch_folded_d64(const AttentionPlan& plan, cudaStream_t stream) {
  return launch_prefill_of<64, true>(plan, stream);
}

}  // namespace kvasir::cuda
