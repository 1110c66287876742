// The attention and merge ops of the CUDA backend: plan, launch, and a sentence when there is no kernel.
#include "../../native/core/dtype.h"
#include "../../native/core/status.h"
#include "../ops.h"
#include "../runtime/device.h"
#include "../runtime/stream.h"
#include "params.h"

namespace kvasir::cuda {
namespace {

Hardware hardware_of(const kvasir_device& device) {
  const Limits& limits = device.limits();
  return {.sm_count = limits.sm_count, .cc_major = limits.cc_major, .smem_per_sm = limits.smem_per_sm};
}

}  // namespace

size_t attention_workspace(kvasir_device* device, const kvasir_attention_args& args) {
  return plan_attention(args, hardware_of(*device)).workspace;
}

kvasir_status launch_attention(kvasir_stream* stream, const kvasir_attention_args& args, void* workspace, size_t bytes,
                               kvasir_error* err) {
  const Hardware hardware = hardware_of(stream->device());
  const AttentionPlan plan = plan_attention(args, hardware);
  if (plan.kernel == AttentionKernel::none) {
    return fail(err, KVASIR_UNSUPPORTED,
                "attention: the CUDA backend has no kernel for %s at head_dim %lld; f32, f16 and bf16 up to 256 work",
                dtype_name(args.q.dtype), static_cast<long long>(args.q.shape[2]));
  }
  if (bytes < plan.workspace) {
    return fail(err, KVASIR_INTERNAL, "attention: the workspace has %zu bytes, %zu are needed", bytes, plan.workspace);
  }
  void* mailbox = nullptr;
  if (plan.mailbox > 0) {
    if (const kvasir_status status = stream->mailbox(plan.mailbox, &mailbox, err); status != KVASIR_OK) return status;
  }
  return stream->device().check(run_attention(plan, hardware, workspace, mailbox, stream->handle()), "enqueueing attention", err);
}

kvasir_status launch_merge(kvasir_stream* stream, const kvasir_merge_args& args, void*, size_t, kvasir_error* err) {
  return stream->device().check(launch_merge_parts(args, stream->handle()), "enqueueing merge", err);
}

}  // namespace kvasir::cuda
