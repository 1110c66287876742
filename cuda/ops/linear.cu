// out [rows, out_features] = x [rows, in_features] · weight [out_features, in_features]ᵀ + bias, accumulated in f32. cuBLASLt
// where it is installed and takes the problem; our own product (gemm.h) otherwise, and always with batch_invariant, because its
// order of summation does not depend on the number of rows.
#include "../common/check.h"
#include "../ops.h"
#include "gemm.h"

namespace kvasir::cuda {

namespace {

MatrixProduct product_of(const kvasir_linear_args& args) {
  MatrixProduct p{};
  p.x = args.x.data;
  p.weight = args.weight.data;
  p.bias = args.bias.rank != 0 ? args.bias.data : nullptr;
  p.out = args.out.data;
  p.rows = args.x.shape[0];
  p.in_features = args.x.shape[1];
  p.out_features = args.weight.shape[0];
  // The stride of a single row means nothing; a plain one fits every kernel.
  p.x_stride = p.rows == 1 ? p.in_features : args.x.stride[0];
  p.weight_stride = p.out_features == 1 ? p.in_features : args.weight.stride[0];
  p.out_stride = p.rows == 1 ? p.out_features : args.out.stride[0];
  p.dtype = args.x.dtype;
  p.out_dtype = args.out.dtype;
  return p;
}

// At odd addresses cuBLASLt rounds the product before it adds the bias; and its bias has out's dtype, not x's.
bool blas_takes(const kvasir_linear_args& args, const MatrixProduct& p) {
  const bool aligned =
      p.dtype == KVASIR_F32 || (tensor_core_takes(p) && reinterpret_cast<uintptr_t>(p.out) % 16 == 0 && p.out_stride % 8 == 0);
  const bool bias_fits = p.bias == nullptr || (p.dtype == p.out_dtype && aligned);
  return args.batch_invariant == 0 && bias_fits && p.in_features > 0 && Blas::available();
}

}  // namespace

size_t linear_workspace(kvasir_device* device, const kvasir_linear_args& args) {
  const MatrixProduct p = product_of(args);
  const size_t own = gemm_workspace(p, device->limits().sm_count);
  return blas_takes(args, p) && own < Blas::kWorkspaceBytes ? Blas::kWorkspaceBytes : own;
}

kvasir_status launch_linear(kvasir_stream* stream, const kvasir_linear_args& args, void* workspace, size_t bytes,
                            kvasir_error* err) {
  const MatrixProduct p = product_of(args);
  if (p.rows == 0 || p.out_features == 0) return KVASIR_OK;
  if (blas_takes(args, p)) {
    kvasir_status status = KVASIR_OK;
    if (stream->device().blas().multiply(stream->handle(), p, workspace, bytes, &status, err)) return status;
  }
  const int sm_count = stream->device().limits().sm_count;
  const cudaError_t result = tensor_core_takes(p) ? launch_tensor_core_gemm(p, workspace, sm_count, stream->handle())
                                                  : launch_simt_gemm(p, stream->handle());
  return checked(stream, result, "linear", err);
}

}  // namespace kvasir::cuda
