// out = sum_p exp(lse_p - lse) parts_p, lse = logsumexp_p lse_p: the merge operator over parts [num_parts, total_q, num_qo_heads,
// head_dim] (T or f32) with natural-log lse, accumulated in f32 in part order. Parts whose lse is -inf are never read; a row with
// no part gives 0, -inf.
#include "../core/merge.h"

#include "element.h"
#include "ops.h"

namespace kvasir::cpu {
namespace {

constexpr int64_t kChunk = 16;  // rows of one work item

template <class Part, class Out>
void merge_row(const kvasir_merge_args& args, int64_t query, int64_t head, float* acc) {
  const kvasir_tensor &parts = args.parts, &lse = args.parts_lse;
  const int64_t num_parts = parts.shape[0], dim = parts.shape[3];
  SoftmaxState<Natural> state;
  for (int64_t d = 0; d < dim; ++d) acc[d] = 0.0f;
  for (int64_t p = 0; p < num_parts; ++p) {
    const float part_lse = static_cast<const float*>(lse.data)[p * lse.stride[0] + query * lse.stride[1] + head * lse.stride[2]];
    const SoftmaxState<Natural> part = SoftmaxState<Natural>::of_lse(part_lse);
    if (part.empty()) continue;
    const MergeFactors factors = state.merge(part);
    const Part* x = static_cast<const Part*>(parts.data) + p * parts.stride[0] + query * parts.stride[1] + head * parts.stride[2];
    for (int64_t d = 0; d < dim; ++d) acc[d] = acc[d] * factors.mine + to_float(x[d]) * factors.theirs;
  }
  const float scale = state.empty() ? 0.0f : 1.0f / state.sum;
  Out* out = static_cast<Out*>(args.out.data) + query * args.out.stride[0] + head * args.out.stride[1];
  for (int64_t d = 0; d < dim; ++d) out[d] = from_float<Out>(acc[d] * scale);
  if (args.lse.rank > 0) {
    static_cast<float*>(args.lse.data)[query * args.lse.stride[0] + head * args.lse.stride[1]] = state.lse();
  }
}

}  // namespace

void merge(Context& context, const kvasir_merge_args& args) {
  const int64_t heads = args.out.shape[1], dim = args.out.shape[2], rows = args.out.shape[0] * heads;
  with_element(args.out.dtype, [&](auto out_zero) {
    with_element(args.parts.dtype, [&](auto part_zero) {
      context.pool.parallel_for((rows + kChunk - 1) / kChunk, [&](int64_t chunk, int thread) {
        float* acc = static_cast<float*>(context.pool.scratch(thread, dim * sizeof(float)));
        for (int64_t row = chunk * kChunk; row < rows && row < (chunk + 1) * kChunk; ++row) {
          merge_row<decltype(part_zero), decltype(out_zero)>(args, row / heads, row % heads, acc);
        }
      });
    });
  });
}

}  // namespace kvasir::cpu
