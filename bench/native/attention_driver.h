// What the checks and the timings of the attention driver share.
#pragma once
#include "../../cuda/attention/params.h"
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

// For decode launches: nothing in it before the first, and nothing but turns after any (decode_join.cuh, decode_ahead.cuh).
inline constexpr size_t kMailboxBytes = 16 << 20;
inline void* mailbox() {
  static void* const data = [] {
    void* p = nullptr;
    check(cudaMalloc(&p, kMailboxBytes), "mailbox");
    check(cudaMemset(p, 0xff, kMailboxBytes), "mailbox");
    return p;
  }();
  return data;
}
inline bool mailbox_is_empty() {
  std::vector<uint32_t> words(kMailboxBytes / 4);
  check(cudaMemcpy(words.data(), mailbox(), kMailboxBytes, cudaMemcpyDeviceToHost), "mailbox");
  cuda::DecodeTurns turns;
  std::memcpy(&turns, words.data(), sizeof turns);
  return std::equal(std::begin(turns.begun), std::end(turns.begun), turns.read) &&
         std::all_of(words.begin() + sizeof turns / 4, words.end(), [](uint32_t x) { return x == 0xffffffffu; });
}

// Both print what fails and return whether all passed.
bool check_cases(bool small);
bool check_laws();

}  // namespace kvasir::bench
