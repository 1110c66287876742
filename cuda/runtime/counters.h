// Blocks of device counters for kernels whose CTAs count each other in. A block is all zeros between launches: kernels leave it
// so, thus it is cleared once, when its slab is allocated. A stream has one for its own launches and a program one for its nodes,
// for launches of one stream follow one another and a program's are none of the stream's that recorded it.
#pragma once
#include <cuda_runtime_api.h>

#include <mutex>
#include <vector>

namespace kvasir::cuda {

inline constexpr int kCounters = 4096;  // in a block

class CounterPool {
 public:
  CounterPool() = default;
  ~CounterPool();  // the device is current, its streams and programs are gone
  CounterPool(const CounterPool&) = delete;
  CounterPool& operator=(const CounterPool&) = delete;

  cudaError_t take(unsigned** out);
  void give_back(unsigned*);  // nullptr: nothing

 private:
  std::mutex lock_;  // guards what follows
  std::vector<unsigned*> free_;
  std::vector<void*> slabs_;
};

}  // namespace kvasir::cuda
