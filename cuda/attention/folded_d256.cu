// Batch-invariant prefill kernels at head_dim 256: one file a head_dim, so that they compile side by side.
#include "instantiate_prefill.cuh"

namespace kvasir::cuda {

cudaError_t launch_folded_d256(const AttentionPlan& plan, cudaStream_t stream) {
  return launch_prefill_of<256, true>(plan, stream);
}

}  // namespace kvasir::cuda
