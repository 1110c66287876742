// Loops over one contiguous row, compiled once per instruction set and picked by Context.isa. Ops convert a row to f32, work on
// f32 and convert back, so that every dtype takes the same path; rows are short enough to stay in the cache in between.
#pragma once
#include <cstdint>

#include "isa.h"

namespace kvasir::cpu {

// Sums over a row's softmax against another's, with e = exp(x - max): see compare_logits.
struct SoftmaxPair {
  double reference_sum = 0, logits_sum = 0, weighted_gap = 0;
};

struct RowOps {
  // Between any floating dtype and f32, round to nearest even.
  void (*load)(int32_t dtype, const void* x, int64_t n, float* out);
  void (*store)(int32_t dtype, const float* x, int64_t n, void* out);

  void (*add)(const float* a, const float* b, int64_t n, float* out);
  void (*scale_mul)(const float* x, float scale, const float* weight, int64_t n, float* out);  // (x * scale) * weight
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
  float (*sum_squares)(const float* x, int64_t n);  // 64 running sums, added pairwise

  // Index of the largest value, the lowest one of equals. NaN never wins; a row of nothing but NaN and -inf gives 0.
  int64_t (*argmax)(const float* x, int64_t n);
  double (*sum_exp)(const float* x, int64_t n, float max);  // of x - max, in float64
  SoftmaxPair (*softmax_pair)(const float* reference, float reference_max, const float* logits, float logits_max, int64_t n);
  // gap = (max - x) * inv_temperature: weight = exp(-gap), bucket = min(floor(gap * buckets_per_unit), last_bucket). NaN weighs
  // 0.
  void (*weigh)(const float* x, int64_t n, float max, double inv_temperature, double buckets_per_unit, int32_t last_bucket,
                double* weight, int32_t* bucket);
};

const RowOps& row_ops(Isa);

// One table per instruction set that is built; row_ops picks.
extern const RowOps kRowOpsPortable, kRowOpsAvx2, kRowOpsAvx512;

}  // namespace kvasir::cpu
