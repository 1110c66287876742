// A CUDA stream with what it takes to copy from and to any host memory in its order: a pinned staging buffer that host functions
// fill and empty. Calls come from one thread at a time.
#pragma once
#include <cuda_runtime_api.h>

#include <array>
#include <atomic>

#include "device.h"
#include "mailbox.h"

struct kvasir_program {
  kvasir_device* device = nullptr;
  cudaGraphExec_t graph = nullptr;
  cudaEvent_t launched = nullptr;  // recorded after every launch: the graph is in use until it has passed
  kvasir::cuda::Mailbox mailbox = {};
};

struct kvasir_stream {
 public:
  static kvasir_status create(kvasir_device&, kvasir_stream**, kvasir_error*);
  ~kvasir_stream();
  kvasir_stream(const kvasir_stream&) = delete;
  kvasir_stream& operator=(const kvasir_stream&) = delete;

  kvasir_device& device() { return device_; }
  cudaStream_t handle() const { return handle_; }
  bool recording() const { return recording_; }
  // So many bytes of the mailbox of what is enqueued now, on the stream or in a recording.
  kvasir_status mailbox(size_t bytes, void** out, kvasir_error*);

  kvasir_status status(kvasir_error*);
  kvasir_status synchronize(kvasir_error*);
  kvasir_status callback(void (*fn)(void*, kvasir_status, const char*), void* user, kvasir_error*);
  kvasir_status copy_in(void* dst, const void* host_src, size_t bytes, bool settled, kvasir_error*);
  kvasir_status copy_out(void* host_dst, const void* src, size_t bytes, kvasir_error*);
  kvasir_status flag_write(uint64_t* flag, uint64_t value, const uint64_t* base, kvasir_error*);
  kvasir_status flag_wait(const uint64_t* flag, uint64_t value, const uint64_t* base, kvasir_error*);
  kvasir_status record_begin(kvasir_error*);
  kvasir_status record_end(kvasir_program**, kvasir_error*);
  kvasir_status launch(kvasir_program&, kvasir_error*);
  kvasir_status stamp(int32_t slot, kvasir_error*);
  kvasir_status elapsed_us(int32_t from, int32_t to, double* out, kvasir_error*);

 private:
  explicit kvasir_stream(kvasir_device& device) : device_(device) {}
  kvasir_status refuse_in_recording(const char* what, kvasir_error*) const;
  // Writes bytes that are there already; the source is free again at once.
  kvasir_status store(void* dst, const void* source, size_t bytes, const char* doing, kvasir_error*);
  // The buffer for copies of memory that is not pinned; the first of them takes it.
  kvasir_status staging(kvasir_error*);
  kvasir_status refuse_pageable(const char* what, kvasir_error*) const;
  kvasir_status copy_direct(void* dst, const void* src, const void* host, size_t bytes, const char* doing, kvasir_error*);

  kvasir_device& device_;
  cudaStream_t handle_ = nullptr;
  void* staging_ = nullptr;
  kvasir::cuda::Mailbox mailbox_, recording_mailbox_;
  bool recording_ = false;
  std::array<cudaEvent_t, KVASIR_STAMP_SLOTS> stamps_{};
  std::array<bool, KVASIR_STAMP_SLOTS> stamped_{};
};
