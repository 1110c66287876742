// Prefill shapes that the tuning driver times against each other.
#pragma once
#include <vector>

#include "../../cuda/attention/params.h"

namespace kvasir::cuda {

struct Variant {
  const char* name;
  int rows, threads, ctas_per_sm, smem_bytes;  // rows of a row tile
  cudaError_t (*launch)(const AttentionParams&, cudaStream_t);
};

// Ragged bf16 prefill at one head_dim.
void prefill_variants_64(std::vector<Variant>&);
void prefill_variants_96(std::vector<Variant>&);
void prefill_variants_128(std::vector<Variant>&);
void prefill_variants_192(std::vector<Variant>&);
void prefill_variants_256(std::vector<Variant>&);

}  // namespace kvasir::cuda
