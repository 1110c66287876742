// What fences, events and devices know of a stream, whether it computes (stream.h) or only moves pages (transfer_stream.h).
#pragma once
#include <cstdint>
#include <memory>

#include "flags.h"

namespace kvasir::addon {

class Device;

class AnyStream {
 public:
  virtual ~AnyStream() = default;
  AnyStream(const AnyStream&) = delete;
  AnyStream& operator=(const AnyStream&) = delete;

  const std::shared_ptr<Device>& device() const { return device_; }
  const std::shared_ptr<Fence>& fence() const { return fence_; }
  uint64_t number() const { return number_; }  // of the latest work

  // Makes the fence's cell receive the number of the latest work.
  virtual void write_fence() = 0;
  virtual void dispose() = 0;

 protected:
  explicit AnyStream(std::shared_ptr<Device> device) : device_(std::move(device)) {}

  std::shared_ptr<Device> device_;
  std::shared_ptr<Fence> fence_;
  uint64_t number_ = 0;
};

}  // namespace kvasir::addon
