#include "tensor_map.h"

namespace kvasir::cuda {
namespace {

using Encoder = CUresult(CUDAAPI*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                                   const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                   CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

Encoder find_encoder() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
  const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
  if (error == cudaSuccess && result == cudaDriverEntryPointSuccess) return reinterpret_cast<Encoder>(found);
  cudaGetLastError();
  return nullptr;
}

}  // namespace

cudaError_t encode_tensor_map(CUtensorMap* out, const TensorMapShape& shape) {
  static const Encoder encode = find_encoder();
  if (encode == nullptr) return cudaErrorNotSupported;
  const cuuint32_t element_stride[5] = {1, 1, 1, 1, 1};
  const CUresult result = encode(out, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, static_cast<cuuint32_t>(shape.rank), shape.base,
                                 shape.size, shape.stride, shape.box, element_stride, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                 shape.box[0] == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorNotSupported;
}

}  // namespace kvasir::cuda
