// The merge operator over stacked parts: lse = logsumexp_p lse_p, out = sum_p exp(lse_p - lse) part_p, f32 inside. parts [P,
// rows, heads, head_dim] f32, f16 or bf16, out the same or parts f32; parts whose lse is -inf are never read, so that their
// storage may hold anything. Also the combine step of split keys: its parts are f32 partials, sinks enter its denominator, and it
// may start while the attention kernel drains (programmatic dependent launch on sm_90), waiting on the device for the partials.
//
// One row (token, head) a group of kRowWarps warps; warp w takes parts w, w + kRowWarps, ... Phases: weights from all lse (every
// warp on its own); weighted sum over the warp's parts, in order; with several warps: sums through shared memory, barrier: all
// arrive and wait.
#include <algorithm>

#include "../../native/core/dtype.h"
#include "../../native/core/merge.h"
#include "../common/dependent_launch.cuh"
#include "../common/mma.cuh"
#include "request.cuh"

namespace kvasir::cuda {
namespace {

struct MergeRows {
  const void* parts;
  const float* parts_lse;
  void* out;
  float* lse;                                  // optional
  const float* sink;                           // optional, one logit a head
  int64_t part_stride, part_token, part_head;  // elements
  int64_t lse_part, lse_token, lse_head;       // of parts_lse
  int64_t out_token, out_head, out_lse_token, out_lse_head;
  int num_parts, heads, head_dim;
  int64_t rows;  // tokens * heads
  // Combine: which tokens belong to a request.
  const int* qo_indptr;
  int batch;
};

template <int kVec, typename T>
__device__ __forceinline__ void load_elements(const T* from, float (&x)[kVec]) {
  if constexpr (kVec == 4 && sizeof(T) == 4) {
    const float4 v = *reinterpret_cast<const float4*>(from);
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
  } else if constexpr (kVec == 4) {
    const uint2 v = *reinterpret_cast<const uint2*>(from);
    T e[4];
    memcpy(e, &v, 8);
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = to_float(e[i]);
  } else {
    x[0] = to_float(from[0]);
  }
}

template <int kVec, typename T>
__device__ __forceinline__ void store_elements(T* to, const float (&x)[kVec]) {
  if constexpr (kVec == 4 && sizeof(T) == 4) {
    *reinterpret_cast<float4*>(to) = make_float4(x[0], x[1], x[2], x[3]);
  } else if constexpr (kVec == 4) {
    *reinterpret_cast<uint2*>(to) = make_uint2(pack2<T>(x[0], x[1]), pack2<T>(x[2], x[3]));
  } else {
    to[0] = from_float<T>(x[0]);
  }
}

// Whether a request put partials there.
__device__ __forceinline__ bool has_parts(const MergeRows& m, int64_t token) {
  return m.qo_indptr == nullptr || (token >= m.qo_indptr[0] && token < m.qo_indptr[m.batch]);
}

constexpr int kMergeThreads = 128;

template <typename In, typename Out, int kVec, int kRowWarps>
__global__ void __launch_bounds__(kMergeThreads) merge_rows_kernel(const __grid_constant__ MergeRows m) {
  wait_for_previous_kernel();
  __shared__ float sums[kMergeThreads / 32][32 * kVec];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row_warp = warp % kRowWarps;
  const int64_t index = blockIdx.x * static_cast<int64_t>(kMergeThreads / 32 / kRowWarps) + warp / kRowWarps;
  if (index >= m.rows) return;  // kRowWarps > 1: the whole CTA, which owns one row
  const int64_t token = index / m.heads;
  const int head = static_cast<int>(index - token * m.heads);
  if (!has_parts(m, token)) return;

  // Every lane ends with the joint state of all parts: lanes stride over parts, then fold pairwise.
  const float* const lse = m.parts_lse + token * m.lse_token + head * m.lse_head;
  SoftmaxState<Natural> state;
  for (int part = lane; part < m.num_parts; part += 32) state.merge(SoftmaxState<Natural>::of_lse(lse[part * m.lse_part]));
  for (int offset = 16; offset > 0; offset /= 2) {
    SoftmaxState<Natural> other;
    other.max = __shfl_xor_sync(0xffffffffu, state.max, offset);
    other.sum = __shfl_xor_sync(0xffffffffu, state.sum, offset);
    // The lower lane's state goes first on both sides, so that every lane ends with the same bits.
    SoftmaxState<Natural> low = lane & offset ? other : state;
    low.merge(lane & offset ? state : other);
    state = low;
  }
  if (m.sink != nullptr && !state.empty()) state.merge(SoftmaxState<Natural>::of_lse(m.sink[head]));
  if (row_warp == 0 && lane == 0 && m.lse != nullptr) m.lse[token * m.out_lse_token + head * m.out_lse_head] = state.lse();
  // From (max, sum) and not from their lse, which has lost log(sum)'s low bits where it is far from zero.
  const float inverse = state.empty() ? 0.f : 1.f / state.sum;

  const In* const parts = static_cast<const In*>(m.parts) + token * m.part_token + head * m.part_head;
  Out* const out = static_cast<Out*>(m.out) + token * m.out_token + head * m.out_head;
  for (int d0 = 0; d0 < m.head_dim; d0 += 32 * kVec) {
    const int d = d0 + lane * kVec;
    float acc[kVec] = {};
    for (int base = row_warp; base < m.num_parts; base += 32 * kRowWarps) {
      const int mine = base + lane * kRowWarps;
      const float part_lse = mine < m.num_parts ? lse[mine * m.lse_part] : -INFINITY;
      const float weight = part_lse == -INFINITY ? 0.f : expf(part_lse - state.max) * inverse;
      const int here = min(32, (m.num_parts - base + kRowWarps - 1) / kRowWarps);
#pragma unroll 8
      for (int i = 0; i < here; ++i) {
        const float w = __shfl_sync(0xffffffffu, weight, i);
        const bool empty = __shfl_sync(0xffffffffu, part_lse, i) == -INFINITY;
        if (!empty && d < m.head_dim) {
          float x[kVec];
          load_elements<kVec>(parts + (base + i * kRowWarps) * m.part_stride + d, x);
#pragma unroll
          for (int e = 0; e < kVec; ++e) acc[e] += w * x[e];
        }
      }
    }
    if constexpr (kRowWarps > 1) {
#pragma unroll
      for (int e = 0; e < kVec; ++e) sums[warp][lane * kVec + e] = acc[e];
      __syncthreads();  // all threads: every warp's sum is visible
      if (row_warp == 0) {
#pragma unroll
        for (int w = 1; w < kRowWarps; ++w)
#pragma unroll
          for (int e = 0; e < kVec; ++e) acc[e] += sums[w][lane * kVec + e];
      }
      __syncthreads();  // all threads: the sums may be overwritten
    }
    if (row_warp == 0 && d < m.head_dim) store_elements<kVec>(out + d, acc);
  }
}

template <typename In, typename Out, int kVec, int kRowWarps>
cudaError_t launch_rows(const MergeRows& m, bool dependent, cudaStream_t stream) {
  if (m.rows == 0) return cudaSuccess;
  constexpr int kRowsPerCta = kMergeThreads / 32 / kRowWarps;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>((m.rows + kRowsPerCta - 1) / kRowsPerCta));
  config.blockDim = dim3(kMergeThreads);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = dependent ? 1 : 0;
  return cudaLaunchKernelEx(&config, merge_rows_kernel<In, Out, kVec, kRowWarps>, m);
}

bool aligned4(const void* p, int element_bytes, std::initializer_list<int64_t> strides) {
  if (reinterpret_cast<uintptr_t>(p) % (4 * element_bytes) != 0) return false;
  return std::all_of(strides.begin(), strides.end(), [](int64_t s) { return s % 4 == 0; });
}

}  // namespace

cudaError_t launch_combine(const AttentionPlan& plan, const Hardware& hardware, cudaStream_t stream) {
  const AttentionParams& p = plan.params;
  const int64_t element = dtype_bytes(plan.out_dtype);
  MergeRows m = {};
  m.parts = p.part_out;
  m.parts_lse = p.part_lse;
  m.out = p.out;
  m.lse = p.lse;
  m.sink = p.sink;
  m.part_head = p.head_dim;
  m.part_token = static_cast<int64_t>(p.num_qo_heads) * p.head_dim;
  m.part_stride = p.part_rows * m.part_token;
  m.lse_head = 1;
  m.lse_token = p.num_qo_heads;
  m.lse_part = p.part_rows * p.num_qo_heads;
  m.out_token = p.out_token / element;
  m.out_head = p.out_head / element;
  m.out_lse_token = p.lse_token;
  m.out_lse_head = p.lse_head;
  m.num_parts = p.num_splits;
  m.heads = p.num_qo_heads;
  m.head_dim = p.head_dim;
  m.rows = p.part_rows * p.num_qo_heads;
  m.qo_indptr = p.qo_indptr;
  m.batch = p.batch;
  const bool dependent = hardware.cc_major >= 9, many = p.num_splits >= 8;
  const bool vector = aligned4(m.out, static_cast<int>(element), {m.out_token, m.out_head, m.head_dim});
  const auto launch = [&](auto out) {
    using Out = decltype(out);
    if (!vector) return launch_rows<float, Out, 1, 1>(m, dependent, stream);
    return many ? launch_rows<float, Out, 4, 4>(m, dependent, stream) : launch_rows<float, Out, 4, 1>(m, dependent, stream);
  };
  switch (plan.out_dtype) {
    case KVASIR_BF16: return launch(__nv_bfloat16{});
    case KVASIR_F16: return launch(__half{});
    default: return launch(float{});
  }
}

cudaError_t launch_merge_parts(const kvasir_merge_args& a, cudaStream_t stream) {
  MergeRows m = {};
  m.parts = a.parts.data;
  m.parts_lse = static_cast<const float*>(a.parts_lse.data);
  m.out = a.out.data;
  m.lse = a.lse.rank > 0 ? static_cast<float*>(a.lse.data) : nullptr;
  m.part_stride = a.parts.stride[0];
  m.part_token = a.parts.stride[1];
  m.part_head = a.parts.stride[2];
  m.lse_part = a.parts_lse.stride[0];
  m.lse_token = a.parts_lse.stride[1];
  m.lse_head = a.parts_lse.stride[2];
  m.out_token = a.out.stride[0];
  m.out_head = a.out.stride[1];
  m.out_lse_token = a.lse.stride[0];
  m.out_lse_head = a.lse.stride[1];
  m.num_parts = static_cast<int>(a.parts.shape[0]);
  m.heads = static_cast<int>(a.out.shape[1]);
  m.head_dim = static_cast<int>(a.out.shape[2]);
  m.rows = a.out.shape[0] * m.heads;
  const bool vector =
      aligned4(m.parts, static_cast<int>(dtype_bytes(a.parts.dtype)), {m.part_stride, m.part_token, m.part_head, m.head_dim}) &&
      aligned4(m.out, static_cast<int>(dtype_bytes(a.out.dtype)), {m.out_token, m.out_head});
  const auto launch = [&](auto in, auto out) {
    using In = decltype(in);
    using Out = decltype(out);
    return vector ? launch_rows<In, Out, 4, 1>(m, false, stream) : launch_rows<In, Out, 1, 1>(m, false, stream);
  };
  const bool wide = a.parts.dtype == KVASIR_F32;
  switch (a.out.dtype) {
    case KVASIR_BF16: return wide ? launch(float{}, __nv_bfloat16{}) : launch(__nv_bfloat16{}, __nv_bfloat16{});
    case KVASIR_F16: return wide ? launch(float{}, __half{}) : launch(__half{}, __half{});
    default: return launch(float{}, float{});
  }
}

}  // namespace kvasir::cuda
