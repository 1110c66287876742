// Decode shapes that the tuning driver times against each other.
#pragma once
#include <vector>

#include "../../cuda/attention/params.h"

namespace kvasir::cuda {

struct DecodeVariant {
  const char* name;  // rows, warps, keys a unit, stages, CTAs that fit an SM
  bool tma;
  int rows, keys, resident, smem_bytes;
  cudaError_t (*launch)(const AttentionPlan&, cudaStream_t);
};

// Paged bf16 at one head_dim.
void decode_variants_64(std::vector<DecodeVariant>&);
void decode_variants_96(std::vector<DecodeVariant>&);
void decode_variants_128(std::vector<DecodeVariant>&);
void decode_variants_192(std::vector<DecodeVariant>&);
void decode_variants_256(std::vector<DecodeVariant>&);

}  // namespace kvasir::cuda
