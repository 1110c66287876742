// out [rows, out_features] = x · weightᵀ + bias on tensor cores: mma.m16n8k16 with f32 accumulation, tiles of 64 features through
// three or four shared-memory stages filled by cp.async.
//
// Sums run over slices (gemm.h), so that a row's bits do not depend on the tile shape chosen for the number of rows. Few rows
// leave few tiles: then every slice gets CTAs of its own, which write f32 partials [slice, row, feature], and a second kernel
// adds them in order.
#include "../common/convert.cuh"
#include "../common/swizzle.cuh"
#include "gemm.h"

namespace kvasir::cuda {

namespace {

constexpr int kStep = 64;  // features per stage: 128-byte rows
constexpr int kStepsPerSlice = kSlice / kStep;
constexpr int kRowGroup = 8;  // row tiles that share their weight tiles in L2

struct Params {
  const char *x, *weight;
  const void* bias;
  char* out;
  float* partial;  // null: all slices in one CTA
  int64_t x_bytes, weight_bytes, out_stride;
  int rows, in_features, out_features, row_tiles, column_tiles;
  bool out_f32;
};

template <int kRowsPerTile, int kColumnsPerTile, int kWarpRows, int kWarpColumns, int kStageCount>
struct Shape {
  static constexpr int rows = kRowsPerTile, columns = kColumnsPerTile, warp_rows = kWarpRows, warp_columns = kWarpColumns,
                       stages = kStageCount;
  static constexpr int threads = 32 * warp_rows * warp_columns;
  static constexpr int m_tiles = rows / warp_rows / 16, n_pairs = columns / warp_columns / 16;  // of mma, per warp
  static constexpr int stage_bytes = (rows + columns) * kStep * 2;
  static constexpr int smem_bytes = stages * stage_bytes;
  static_assert(smem_bytes <= 99 * 1024, "the smallest supported shared memory per CTA");
};
using Few = Shape<16, 64, 1, 4, 4>;
using Some = Shape<64, 64, 2, 2, 4>;
using Many = Shape<128, 128, 2, 4, 3>;

// kCount rows of a matrix, kStep features from `feature` on, into a swizzled tile; rows and features past the end become zeros.
template <int kCount, int kThreads>
__device__ __forceinline__ void load_tile(uint32_t tile, const char* matrix, int64_t row_bytes, int first_row, int rows,
                                          int feature, int features) {
  const int chunk = threadIdx.x % 8, at = feature + chunk * 8;
#pragma unroll
  for (int i = 0; i < kCount; i += kThreads / 8) {
    const int r = i + threadIdx.x / 8, row = first_row + r;
    if (kCount % (kThreads / 8) != 0 && r >= kCount) break;
    const bool inside = row < rows && at < features;
    cp_async_16(tile + Swizzle<kStep>::offset(r, chunk), matrix + (inside ? row * row_bytes + at * 2 : 0), inside ? 16 : 0);
  }
}

template <class T>
__device__ __forceinline__ void store_element(const Params& p, int64_t at, float value) {
  if (p.out_f32)
    reinterpret_cast<float*>(p.out)[at] = value;
  else
    reinterpret_cast<T*>(p.out)[at] = as_element<T>(value);
}

template <class T, class S>
__global__ void __launch_bounds__(S::threads) gemm_kernel(const Params p) {
  extern __shared__ __align__(128) char smem[];
  using Tile = Swizzle<kStep>;
  const uint32_t base = smem_address(smem);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_row = warp / S::warp_columns,
            warp_column = warp % S::warp_columns;

  // Tiles in bands of kRowGroup row tiles, columns outer within a band.
  const int band_tiles = kRowGroup * p.column_tiles, band = blockIdx.x / band_tiles, in_band = blockIdx.x % band_tiles;
  const int band_rows = min(kRowGroup, p.row_tiles - band * kRowGroup);
  const int first_row = (band * kRowGroup + in_band % band_rows) * S::rows, first_column = in_band / band_rows * S::columns;

  const int all_steps = (p.in_features + kStep - 1) / kStep;
  const int begin = p.partial != nullptr ? blockIdx.y * kStepsPerSlice : 0;
  const int end = p.partial != nullptr ? min(begin + kStepsPerSlice, all_steps) : all_steps;

  const auto load_stage = [&](int step) {
    if (step < end) {
      const uint32_t stage = base + (step - begin) % S::stages * S::stage_bytes;
      load_tile<S::rows, S::threads>(stage, p.x, p.x_bytes, first_row, p.rows, step * kStep, p.in_features);
      load_tile<S::columns, S::threads>(stage + S::rows * kStep * 2, p.weight, p.weight_bytes, first_column, p.out_features,
                                        step * kStep, p.in_features);
    }
    cp_async_commit();  // also when empty: groups are counted
  };
  for (int i = 0; i < S::stages - 1; ++i) load_stage(begin + i);

  float total[S::m_tiles][2 * S::n_pairs][4] = {}, acc[S::m_tiles][2 * S::n_pairs][4] = {};
  const uint32_t x_lane = Tile::offset(warp_row * S::m_tiles * 16 + lane_row_a(lane), lane_chunk_a(lane));
  const uint32_t weight_lane =
      S::rows * kStep * 2 + Tile::offset(warp_column * S::n_pairs * 16 + lane_row_b(lane), lane_chunk_b(lane));
  for (int step = begin; step < end; ++step) {
    cp_async_wait<S::stages - 2>();
    __syncthreads();  // this step's stage is filled by all threads, and the one before it is free
    load_stage(step + S::stages - 1);
    const uint32_t stage = base + (step - begin) % S::stages * S::stage_bytes;
#pragma unroll
    for (int k = 0; k < kStep / 16; ++k) {
      uint32_t a[S::m_tiles][4];
#pragma unroll
      for (int m = 0; m < S::m_tiles; ++m)
        ldmatrix_x4(a[m], Tile::at_step<S::rows>(stage + x_lane + m * 16 * Tile::kRowBytes, k));
#pragma unroll
      for (int n = 0; n < S::n_pairs; ++n) {
        uint32_t b[4];
        ldmatrix_x4(b, Tile::at_step<S::columns>(stage + weight_lane + n * 16 * Tile::kRowBytes, k));
#pragma unroll
        for (int m = 0; m < S::m_tiles; ++m) {
          mma_16816<T>(acc[m][2 * n], a[m], b[0], b[1]);
          mma_16816<T>(acc[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }
    if ((step + 1) % kStepsPerSlice != 0 && step + 1 != end) continue;
#pragma unroll
    for (int m = 0; m < S::m_tiles; ++m) {
#pragma unroll
      for (int n = 0; n < 2 * S::n_pairs; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          total[m][n][i] += acc[m][n][i];
          acc[m][n][i] = 0.f;
        }
      }
    }
  }
  cp_async_wait<0>();

#pragma unroll
  for (int m = 0; m < S::m_tiles; ++m) {
#pragma unroll
    for (int n = 0; n < 2 * S::n_pairs; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = first_row + (warp_row * S::m_tiles + m) * 16 + lane / 4 + i / 2 * 8;
        const int column = first_column + (warp_column * S::n_pairs * 2 + n) * 8 + lane % 4 * 2 + i % 2;
        if (row >= p.rows || column >= p.out_features) continue;
        if (p.partial != nullptr) {
          p.partial[(static_cast<int64_t>(blockIdx.y) * p.rows + row) * p.out_features + column] = total[m][n][i];
        } else {
          const float bias = p.bias == nullptr ? 0.f : as_float(static_cast<const T*>(p.bias)[column]);
          store_element<T>(p, row * p.out_stride + column, total[m][n][i] + bias);
        }
      }
    }
  }
}

template <class T>
__global__ void add_slices_kernel(const Params p, int slices) {
  const int64_t count = static_cast<int64_t>(p.rows) * p.out_features,
                at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= count) return;
  float sum = 0.f;
  for (int s = 0; s < slices; ++s) sum += p.partial[s * count + at];
  const int64_t row = at / p.out_features, column = at % p.out_features;
  const float bias = p.bias == nullptr ? 0.f : as_float(static_cast<const T*>(p.bias)[column]);
  store_element<T>(p, row * p.out_stride + column, sum + bias);
}

int64_t tiles(int64_t length, int tile) { return (length + tile - 1) / tile; }
int slice_count(const MatrixProduct& p) { return static_cast<int>(tiles(p.in_features, kSlice)); }

// Slices side by side where a few rows' tiles would leave multiprocessors idle.
bool is_split(const MatrixProduct& p, int sm_count) {
  return p.rows <= Some::rows && slice_count(p) > 1 && tiles(p.out_features, Some::columns) < 2 * sm_count;
}

template <class T, class S>
cudaError_t launch(Params p, int slices, cudaStream_t stream) {
  p.row_tiles = static_cast<int>(tiles(p.rows, S::rows));
  p.column_tiles = static_cast<int>(tiles(p.out_features, S::columns));
  static_assert(S::smem_bytes > 0);
  const cudaError_t allowed = cudaFuncSetAttribute(gemm_kernel<T, S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::smem_bytes);
  if (allowed != cudaSuccess) return allowed;
  const dim3 grid(static_cast<unsigned>(p.row_tiles) * static_cast<unsigned>(p.column_tiles),
                  p.partial != nullptr ? static_cast<unsigned>(slices) : 1u);
  gemm_kernel<T, S><<<grid, S::threads, S::smem_bytes, stream>>>(p);
  if (p.partial != nullptr) {
    const int64_t count = static_cast<int64_t>(p.rows) * p.out_features;
    add_slices_kernel<T><<<static_cast<unsigned>(tiles(count, 256)), 256, 0, stream>>>(p, slices);
  }
  return cudaGetLastError();
}

}  // namespace

bool tensor_core_takes(const MatrixProduct& p) {
  const auto aligned = [](const void* data, int64_t stride) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 8 == 0;
  };
  return p.dtype != KVASIR_F32 && p.in_features > 0 && p.in_features % 8 == 0 && aligned(p.x, p.x_stride) &&
         aligned(p.weight, p.weight_stride);
}

size_t gemm_workspace(const MatrixProduct& p, int sm_count) {
  if (!tensor_core_takes(p) || !is_split(p, sm_count)) return 0;
  return static_cast<size_t>(slice_count(p)) * static_cast<size_t>(p.rows * p.out_features) * sizeof(float);
}

cudaError_t launch_tensor_core_gemm(const MatrixProduct& product, void* workspace, int sm_count, cudaStream_t stream) {
  Params p{};
  p.x = static_cast<const char*>(product.x);
  p.weight = static_cast<const char*>(product.weight);
  p.bias = product.bias;
  p.out = static_cast<char*>(product.out);
  p.partial = is_split(product, sm_count) ? static_cast<float*>(workspace) : nullptr;
  p.x_bytes = product.x_stride * 2;
  p.weight_bytes = product.weight_stride * 2;
  p.out_stride = product.out_stride;
  p.rows = static_cast<int>(product.rows);
  p.in_features = static_cast<int>(product.in_features);
  p.out_features = static_cast<int>(product.out_features);
  p.out_f32 = product.out_dtype == KVASIR_F32;
  const int slices = slice_count(product);
  const bool full = tiles(product.rows, Many::rows) * tiles(product.out_features, Many::columns) >= sm_count;
  return with_dtype(product.dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (__is_same(T, float)) {
      return cudaErrorInvalidValue;
    } else {
      if (product.rows <= Few::rows) return launch<T, Few>(p, slices, stream);
      return full ? launch<T, Many>(p, slices, stream) : launch<T, Some>(p, slices, stream);
    }
  });
}

}  // namespace kvasir::cuda
