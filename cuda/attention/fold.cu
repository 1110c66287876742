// The join of a batch-invariant call: folds the partials that a row's segments left, from the last segment to the first, with the
// arithmetic that the kernels use which walk them (fold.cuh); sinks enter here. May start while the attention kernel drains
// (programmatic dependent launch on sm_90), waiting on the device for the partials.
//
// A warp owns kWidth elements of one row (token, query head) and goes through its segments 32 at a time. Phases: lane i finds the
// factors of segment i, the maximum before it by a scan (a maximum is exact in any order); then all lanes fold in order, kAhead
// loads in flight.
#include "../common/dependent_launch.cuh"
#include "fold.cuh"

namespace kvasir::cuda {
namespace {

constexpr int kFoldThreads = 128, kWidth = 64, kAhead = 16;

// Where a row's partials lie; count 0: it sees no key.
struct RowParts {
  int64_t first;  // partial of the row's first visible segment ...
  int64_t step;   // ... and from one segment to the next
  int count;
};

// False where there is nothing to join.
__device__ bool find_parts(const AttentionParams& p, int token, int head, RowParts& parts) {
  const int index = request_of_token(p, token);
  if (index < 0) return false;
  const int kv_head = p.group.div(head), group = static_cast<int>(p.group.divisor);
  const int64_t begin = p.part_begin[index * static_cast<int64_t>(p.num_kv_heads) + kv_head];
  if (begin < 0) return false;
  const Request r = load_request(p, index, kv_head);
  const int i = token - r.qo_begin, position = r.q_start + i;
  int key_begin, key_end;
  visible_keys(p, r.kv_len, position, position, key_begin, key_end);
  const SegmentRange own = segments_of(key_begin, key_end);
  parts.step = static_cast<int64_t>(r.qo_len) * group;
  parts.first = begin + (own.first - visible_segments(p, r).first) * parts.step + i * group + head - kv_head * group;
  parts.count = own.count;
  return true;
}

// The factors of 32 segments, one a lane, and what they do to the running state.
struct Round {
  FoldState part;        // this lane's segment
  FoldFactors factors;   // of it and of the segments behind it
  unsigned none, first;  // bit i: segment i is empty; it is the first that is not

  __device__ Round(FoldState part_, float before, int lane) : part(part_) {
    float joint = fmaxf(before, part.max);
    for (int offset = 1; offset < 32; offset *= 2) {
      const float other = __shfl_up_sync(0xffffffffu, joint, offset);
      if (lane >= offset) joint = fmaxf(joint, other);
    }
    const float behind = __shfl_up_sync(0xffffffffu, joint, 1), total = lane == 0 ? before : behind;
    none = __ballot_sync(0xffffffffu, part.empty());
    first = __ballot_sync(0xffffffffu, !part.empty() && total == -INFINITY);
    factors = part.empty() || total == -INFINITY ? FoldFactors{1.f, 1.f} : fold_factors(total, part.max);
  }
};

template <typename T>
__global__ void __launch_bounds__(kFoldThreads) fold_kernel(const __grid_constant__ AttentionParams p) {
  wait_for_previous_kernel();
  const int lane = threadIdx.x & 31, chunks = (p.head_dim + kWidth - 1) / kWidth;
  const int64_t warp = blockIdx.x * static_cast<int64_t>(kFoldThreads / 32) + (threadIdx.x >> 5), row = warp / chunks;
  const int chunk = static_cast<int>(warp - row * chunks), d = chunk * kWidth + 2 * lane;
  const int token = static_cast<int>(row / p.num_qo_heads), head = static_cast<int>(row % p.num_qo_heads);
  RowParts parts;
  if (token >= p.total_q || !find_parts(p, token, head, parts)) return;

  FoldState state;
  float2 acc = make_float2(0.f, 0.f);
  const bool mine = d < p.head_dim;
  for (int done = 0; done < parts.count; done += 32) {
    const int here = min(32, parts.count - done), last = parts.count - 1 - done;
    FoldState part;
    if (lane < here) {
      const float2 x = p.part_state[parts.first + (last - lane) * parts.step];
      part = {x.x, x.y};
    }
    const Round round(part, state.max, lane);
    for (int base = 0; base < here; base += kAhead) {
      float2 x[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        x[i] = make_float2(0.f, 0.f);
        if (mine && (round.none >> (base + i) & 1) == 0)
          x[i] = *reinterpret_cast<const float2*>(p.part_out + (parts.first + (last - base - i) * parts.step) * p.head_dim + d);
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int at = base + i;
        const FoldState next = {__shfl_sync(0xffffffffu, round.part.max, at), __shfl_sync(0xffffffffu, round.part.sum, at)};
        const FoldFactors factors = {__shfl_sync(0xffffffffu, round.factors.total, at),
                                     __shfl_sync(0xffffffffu, round.factors.part, at)};
        if (round.none >> at & 1) continue;
        if (round.first >> at & 1) {
          state = next;
          acc = x[i];
          continue;
        }
        state = {fmaxf(state.max, next.max), fold(state.sum, next.sum, factors)};
        acc = make_float2(fold(acc.x, x[i].x, factors), fold(acc.y, x[i].y, factors));
      }
    }
  }

  const RowEnd end = end_row(state, p.sink != nullptr ? p.sink + head : nullptr);
  if (chunk == 0 && lane == 0 && p.lse != nullptr) p.lse[token * p.lse_token + head * p.lse_head] = end.lse;
  if (!mine) return;
  T* const out = reinterpret_cast<T*>(p.out + token * p.out_token + head * p.out_head) + d;
  out[0] = from_float<T>(__fmul_rn(acc.x, end.scale));
  out[1] = from_float<T>(__fmul_rn(acc.y, end.scale));
}

template <typename T>
cudaError_t launch(const AttentionParams& p, bool dependent, cudaStream_t stream) {
  const int64_t warps = static_cast<int64_t>(p.total_q) * p.num_qo_heads * ((p.head_dim + kWidth - 1) / kWidth);
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>((warps + kFoldThreads / 32 - 1) / (kFoldThreads / 32)));
  config.blockDim = dim3(kFoldThreads);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = dependent ? 1 : 0;
  return cudaLaunchKernelEx(&config, fold_kernel<T>, p);
}

}  // namespace

cudaError_t launch_fold(const AttentionPlan& plan, const Hardware& hardware, cudaStream_t stream) {
  const bool dependent = hardware.cc_major >= 9;
  switch (plan.out_dtype) {
    case KVASIR_BF16: return launch<__nv_bfloat16>(plan.params, dependent, stream);
    case KVASIR_F16: return launch<__half>(plan.params, dependent, stream);
    default: return launch<float>(plan.params, dependent, stream);
  }
}

}  // namespace kvasir::cuda
