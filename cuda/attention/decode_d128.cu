// Decode kernels at head_dim 128: one file a head_dim, so that they compile side by side.
#include "instantiate_decode.cuh"

namespace kvasir::cuda {

cudaError_t launch_decode_d128(const AttentionPlan& plan, cudaStream_t stream) { return launch_decode_of<128>(plan, stream); }

}  // namespace kvasir::cuda
