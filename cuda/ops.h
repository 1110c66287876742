// Every op of the CUDA backend: a launcher that only enqueues (no allocation, no wait, so that it can be captured) and, where it
// needs scratch, a query of shapes and scalars. Arguments were checked by native/contracts before.
#pragma once
#include "../native/abi/kvasir_abi.h"

namespace kvasir::cuda {

kvasir_status launch_attention(kvasir_stream*, const kvasir_attention_args&, void* workspace, size_t bytes, kvasir_error*);
size_t attention_workspace(kvasir_device*, const kvasir_attention_args&);
kvasir_status launch_merge(kvasir_stream*, const kvasir_merge_args&, void* workspace, size_t bytes, kvasir_error*);
kvasir_status launch_append(kvasir_stream*, const kvasir_append_args&, void* workspace, size_t bytes, kvasir_error*);
kvasir_status launch_rope(kvasir_stream*, const kvasir_rope_args&, void* workspace, size_t bytes, kvasir_error*);
kvasir_status launch_rms_norm(kvasir_stream*, const kvasir_rms_norm_args&, void* workspace, size_t bytes, kvasir_error*);
kvasir_status launch_silu_mul(kvasir_stream*, const kvasir_silu_mul_args&, void* workspace, size_t bytes, kvasir_error*);
kvasir_status launch_embedding(kvasir_stream*, const kvasir_embedding_args&, void* workspace, size_t bytes, kvasir_error*);
kvasir_status launch_linear(kvasir_stream*, const kvasir_linear_args&, void* workspace, size_t bytes, kvasir_error*);
size_t linear_workspace(kvasir_device*, const kvasir_linear_args&);
kvasir_status launch_argmax(kvasir_stream*, const kvasir_argmax_args&, void* workspace, size_t bytes, kvasir_error*);
kvasir_status launch_sample(kvasir_stream*, const kvasir_sample_args&, void* workspace, size_t bytes, kvasir_error*);
kvasir_status launch_advance(kvasir_stream*, const kvasir_advance_args&, void* workspace, size_t bytes, kvasir_error*);
kvasir_status launch_cross_entropy(kvasir_stream*, const kvasir_cross_entropy_args&, void* workspace, size_t bytes,
                                   kvasir_error*);
kvasir_status launch_compare_logits(kvasir_stream*, const kvasir_compare_logits_args&, void* workspace, size_t bytes,
                                    kvasir_error*);
kvasir_status launch_cast(kvasir_stream*, const kvasir_cast_args&, void* workspace, size_t bytes, kvasir_error*);
kvasir_status launch_probe_read(kvasir_stream*, const kvasir_probe_read_args&, void* workspace, size_t bytes, kvasir_error*);

}  // namespace kvasir::cuda
