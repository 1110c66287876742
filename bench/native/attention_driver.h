// What the checks and the timings of the attention driver share.
#pragma once
#include "../../cuda/attention/params.h"
#include "../../cuda/runtime/counters.h"
#include "attention_case.h"

namespace kvasir::bench {

inline cuda::Hardware hardware() {
  cuda::Hardware h;
  cudaDeviceGetAttribute(&h.sm_count, cudaDevAttrMultiProcessorCount, 0);
  cudaDeviceGetAttribute(&h.cc_major, cudaDevAttrComputeCapabilityMajor, 0);
  // The kernels of sm_80 on a newer GPU, for a build with -DKVASIR_ALL_LOADS.
  if (std::getenv("ATTENTION_PORTABLE") != nullptr) h.cc_major = 8;
  cudaDeviceGetAttribute(&h.smem_per_sm, cudaDevAttrMaxSharedMemoryPerMultiprocessor, 0);
  return h;
}

// Device memory for partials, poisoned before every use.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  ~Scratch() { cudaFree(data_); }
  void* at_least(size_t n) {
    if (n > bytes_) {
      cudaFree(data_);
      check(cudaMalloc(&data_, n), "scratch");
      bytes_ = n;
    }
    if (n > 0) check(cudaMemset(data_, 0xff, n), "scratch poison");
    return data_;
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Arrival counters for decode launches: zeros once, and again after every launch.
inline unsigned* arrivals() {
  static unsigned* const counters = [] {
    void* p = nullptr;
    check(cudaMalloc(&p, cuda::kCounters * sizeof(unsigned)), "arrivals");
    check(cudaMemset(p, 0, cuda::kCounters * sizeof(unsigned)), "arrivals");
    return static_cast<unsigned*>(p);
  }();
  return counters;
}

// Both print what fails and return whether all passed.
bool check_cases(bool small);
bool check_laws();

}  // namespace kvasir::bench
