// cuBLASLt, found at run time: the fast matrix product where a CUDA toolkit or its libraries are installed. KVASIR_BLAS=off
// leaves it out. One handle per device, made on first use; the algorithm of a problem is chosen once by its heuristic and kept.
#pragma once
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "../../native/abi/kvasir_abi.h"
#include "device.h"

namespace kvasir::cuda {

// out [rows, out_features] = x [rows, in_features] · weight [out_features, in_features]ᵀ + bias, row strides in elements.
struct MatrixProduct {
  const void *x, *weight, *bias;  // bias may be null; of dtype
  void* out;
  int64_t rows, in_features, out_features, x_stride, weight_stride, out_stride;
  int32_t dtype, out_dtype;
};

class Blas {
 public:
  explicit Blas(kvasir_device& device) : device_(device) {}
  ~Blas();
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;

  static bool available();  // the library was found
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;

  // False when cuBLASLt has no algorithm for the problem, and then nothing was enqueued.
  bool multiply(cudaStream_t, const MatrixProduct&, void* workspace, size_t workspace_bytes, kvasir_status*, kvasir_error*);

 private:
  struct Key {
    int64_t values[12];
    bool operator==(const Key&) const = default;
  };
  struct Hash {
    size_t operator()(const Key&) const;
  };
  struct Algorithm {
    uint64_t data[8];
    bool usable;
  };
  bool open();

  kvasir_device& device_;
  std::mutex lock_;
  void* handle_ = nullptr;
  bool failed_ = false;
  std::unordered_map<Key, Algorithm, Hash> algorithms_;
};

}  // namespace kvasir::cuda
