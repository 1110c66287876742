// The one merge operator on partial softmax results, for kernels and host code of every backend.
//
// A part over some keys is (max, sum, acc): acc = sum_j e(s_j - max) v_j, sum = sum_j e(s_j - max); its output is acc / sum and
// its lse = max + log(sum). e is 2^x for running states inside kernels (Base2: scores times log2(e)) and e^x for natural-log lse
// (Natural; a finished part enters with max = lse, sum = 1, acc = out). Merging is associative and order-free up to rounding. The
// empty part is
// (-inf, 0): its factor is 0, and the caller must skip acc then, because 0 * NaN is NaN.
#pragma once
#include <cmath>

#include "platform.h"

namespace kvasir {

struct Base2 {
  static KVASIR_HD float exp(float x) { return exp2f(x); }
  static KVASIR_HD float lse(float max, float sum) { return (max + log2f(sum)) * 0.693147180559945309f; }
};
struct Natural {
  static KVASIR_HD float exp(float x) { return expf(x); }
  static KVASIR_HD float lse(float max, float sum) { return max + logf(sum); }
};

// What both accumulators are multiplied by before they are added.
struct MergeFactors {
  float mine, theirs;
};

template <class Base = Base2>
struct SoftmaxState {
  float max = -INFINITY, sum = 0.0f;

  KVASIR_HD bool empty() const { return max == -INFINITY; }

  // Folds another part in; factors of empty parts are 0.
  KVASIR_HD MergeFactors merge(const SoftmaxState& other) {
    const float joint = other.max > max ? other.max : max;
    const MergeFactors factors = {empty() ? 0.0f : Base::exp(max - joint), other.empty() ? 0.0f : Base::exp(other.max - joint)};
    sum = (empty() ? 0.0f : sum * factors.mine) + (other.empty() ? 0.0f : other.sum * factors.theirs);
    max = joint;
    return factors;
  }

  KVASIR_HD float lse() const { return empty() ? -INFINITY : Base::lse(max, sum); }

  // A finished part, known by its natural lse alone.
  static KVASIR_HD SoftmaxState of_lse(float lse) {
    SoftmaxState part;
    part.max = lse;
    part.sum = lse == -INFINITY ? 0.0f : 1.0f;
    return part;
  }
};

}  // namespace kvasir
