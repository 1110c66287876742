// Every op of the CPU backend: what it needs and how it runs. The backend turns these into the ABI's op table, queues them on
// streams and records them in programs; an op itself is a plain synchronous function on the stream's worker thread.
#pragma once
#include "../abi/kvasir_abi.h"
#include "isa.h"
#include "thread_pool.h"

namespace kvasir::cpu {

struct Context {
  ThreadPool& pool;
  Isa isa;          // the instruction set to use, chosen once per device (KVASIR_ISA lowers it, for tests)
  void* workspace;  // as large as the op's workspace query asked
};

// workspace queries get the number of threads; they depend on shapes and scalars only.
size_t attention_workspace(const kvasir_attention_args&, int threads);
void attention(Context&, const kvasir_attention_args&);
void attention_reference(Context&, const kvasir_attention_args&);
void merge(Context&, const kvasir_merge_args&);
void append(Context&, const kvasir_append_args&);
void rope(Context&, const kvasir_rope_args&);
void rms_norm(Context&, const kvasir_rms_norm_args&);
void silu_mul(Context&, const kvasir_silu_mul_args&);
void embedding(Context&, const kvasir_embedding_args&);
size_t linear_workspace(const kvasir_linear_args&, int threads);
void linear(Context&, const kvasir_linear_args&);
void argmax(Context&, const kvasir_argmax_args&);
void sample(Context&, const kvasir_sample_args&);
void advance(Context&, const kvasir_advance_args&);
void cross_entropy(Context&, const kvasir_cross_entropy_args&);
void compare_logits(Context&, const kvasir_compare_logits_args&);
void cast(Context&, const kvasir_cast_args&);
void probe_read(Context&, const kvasir_probe_read_args&);
void probe_fma(Context&, const kvasir_probe_fma_args&);

}  // namespace kvasir::cpu
