// The oracle of attention: out = softmax(mask(soft_cap(sm_scale q k^T) + log_weight)) v, one query row at a time, every rule of
// the contract in the plainest form.
//   out f32:       all of it in float64, rounded once at the end.
//   out f16, bf16: the straightforward computation in that dtype (f32 scores and sums, rotated keys and probabilities rounded to
//   it): the
//                  yardstick of the tolerance rule "error <= 2 x the error of the straightforward computation + a small term".
#include <cmath>
#include <cstring>
#include <type_traits>

#include "attention_problem.h"
#include "element.h"
#include "ops.h"

namespace kvasir::cpu {
namespace {

template <class Real>
void load_row(const char* p, int32_t dtype, int64_t n, Real* out) {
  with_element(dtype, [&](auto zero) {
    const auto* x = reinterpret_cast<const decltype(zero)*>(p);
    for (int64_t i = 0; i < n; ++i) out[i] = to_float(x[i]);
  });
}

template <class Real>
Real dot(const Real* a, const Real* b, int64_t n) {
  Real sums[8] = {};  // head_dim is a multiple of 8
  for (int64_t i = 0; i < n; i += 8) {
    for (int lane = 0; lane < 8; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  }
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

// Rotates half-split pairs by position: the angle is the f32 product, as models compute it.
template <class Real>
void rotate(Real* x, const kvasir_tensor& inv_freq, int64_t position, float scale) {
  const int64_t half = inv_freq.shape[0];
  for (int64_t i = 0; i < half; ++i) {
    const float angle = static_cast<float>(position) * float_at(inv_freq, i);
    const Real c = static_cast<Real>(std::cos(static_cast<double>(angle)) * scale);
    const Real s = static_cast<Real>(std::sin(static_cast<double>(angle)) * scale);
    const Real a = x[i], b = x[i + half];
    x[i] = a * c - b * s;
    x[i + half] = b * c + a * s;
  }
}

// Real: what scores and sums are computed in. Out: the element type, to which a 16-bit run rounds keys it rotates and
// probabilities.
template <class Real, class Out>
struct Row {
  const AttentionProblem& problem;
  int64_t b, query, head;  // query counts from the start of q
  Real* scores;            // [slots]
  Real* q;                 // [head_dim]
  Real* key;               // [head_dim], then the value
  Real* acc;               // [head_dim]

  static Real rounded(Real x) {
    if constexpr (std::is_same_v<Out, float>) return x;
    return to_float(from_float<Out>(static_cast<float>(x)));
  }

  // Calls visit(slot, run, j) for each key the query sees, in slot order.
  template <class Visit>
  void each_key(const KeyRow& row, const Visible& range, const Visit& visit) const {
    const int64_t kv_head = head / problem.group;
    for (int64_t slot = 0; slot < row.length;) {
      const KeyRun run = problem.run_at(row, kv_head, slot);
      for (int64_t j = 0; j < run.valid; ++j) {
        const int64_t position = run.position + j;
        if (position < range.first || position > range.last) continue;
        if (present(problem.args.log_weight) && problem.log_weight(run, kv_head, j) == -INFINITY) continue;
        visit(slot + j, run, j);
      }
      slot += run.slots;
    }
  }

  Real score(const KeyRun& run, int64_t j) const {
    const kvasir_attention_args& args = problem.args;
    const int32_t dtype = problem.paged ? args.pages.dtype : args.k.dtype;
    load_row(run.k + j * run.k_stride, dtype, problem.head_dim, key);
    if (present(args.k_inv_freq)) {
      rotate(key, args.k_inv_freq, run.position + j, args.k_rope_scale);
      for (int64_t d = 0; d < 2 * args.k_inv_freq.shape[0]; ++d) key[d] = rounded(key[d]);
    }
    const Real cap = args.logits_soft_cap;
    Real s = dot(q, key, problem.head_dim) * static_cast<Real>(problem.sm_scale);
    if (cap != 0) s = cap * std::tanh(s / cap);
    if (present(args.log_weight)) s += problem.log_weight(run, head / problem.group, j);
    return s;
  }

  void compute() const {
    const kvasir_attention_args& args = problem.args;
    const int64_t dim = problem.head_dim;
    const KeyRow row = problem.keys(b, head / problem.group);
    const Visible range = problem.visible(b, query - problem.first_query(b), row);
    const int64_t q_offset = query * args.q.stride[0] + head * args.q.stride[1];
    load_row(static_cast<const char*>(args.q.data) + q_offset * dtype_bytes(args.q.dtype), args.q.dtype, dim, q);
    for (int64_t d = 0; d < dim; ++d) acc[d] = 0;

    Real max = -INFINITY;
    each_key(row, range, [&](int64_t slot, const KeyRun& run, int64_t j) {
      scores[slot] = score(run, j);
      if (!(scores[slot] <= max)) max = scores[slot];
    });
    const bool seen = max != -INFINITY;
    if (seen && present(args.sink) && float_at(args.sink, head) > max) max = float_at(args.sink, head);
    Real sum = seen && present(args.sink) ? std::exp(static_cast<Real>(float_at(args.sink, head)) - max) : 0;
    each_key(row, range, [&](int64_t slot, const KeyRun&, int64_t) { sum += scores[slot] = std::exp(scores[slot] - max); });
    const int32_t dtype = problem.paged ? args.pages.dtype : args.v.dtype;
    each_key(row, range, [&](int64_t slot, const KeyRun& run, int64_t j) {
      const Real p = rounded(scores[slot] / sum);
      load_row(run.v + j * run.v_stride, dtype, dim, key);
      for (int64_t d = 0; d < dim; ++d) acc[d] += p * key[d];
    });

    Out* out = static_cast<Out*>(args.out.data) + query * args.out.stride[0] + head * args.out.stride[1];
    for (int64_t d = 0; d < dim; ++d) out[d] = from_float<Out>(seen ? static_cast<float>(acc[d]) : 0.0f);
    if (present(args.lse)) {
      static_cast<float*>(args.lse.data)[query * args.lse.stride[0] + head * args.lse.stride[1]] =
          seen ? static_cast<float>(max + std::log(sum)) : -INFINITY;
    }
  }
};

template <class Real, class Out>
void run(Context& context, const AttentionProblem& problem) {
  const int64_t heads = problem.num_qo_heads, dim = problem.head_dim;
  context.pool.parallel_for(problem.total_q * heads, [&](int64_t index, int thread) {
    const int64_t query = index / heads, head = index % heads;
    int64_t low = 0, high = problem.batch;  // the last request that starts at or before the query, empty ones passed over
    while (high - low > 1) {
      const int64_t mid = (low + high) / 2;
      (problem.first_query(mid) <= query ? low : high) = mid;
    }
    if (problem.batch == 0 || query >= problem.first_query(low + 1)) return;
    const int64_t slots = problem.keys(low, head / problem.group).length;
    Real* scratch = static_cast<Real*>(context.pool.scratch(thread, (slots + 3 * dim) * sizeof(Real)));
    Row<Real, Out>{problem, low, query, head, scratch + 3 * dim, scratch, scratch + dim, scratch + 2 * dim}.compute();
  });
}

}  // namespace

void attention_reference(Context& context, const kvasir_attention_args& args) {
  const AttentionProblem problem(args);
  with_element(args.out.dtype, [&](auto zero) {
    using Out = decltype(zero);
    if constexpr (std::is_same_v<Out, float>) {
      run<double, float>(context, problem);
    } else {
      run<float, Out>(context, problem);
    }
  });
}

}  // namespace kvasir::cpu
