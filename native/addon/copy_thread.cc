#include "copy_thread.h"

#include <utility>

#include "device.h"
#include "memory.h"

namespace kvasir::addon {

void CopyThread::run(Storage& storage, std::function<void()> copy) {
  if (fence_ == nullptr) {
    fence_ = std::make_shared<Fence>();
    fence_->cell = flags_.create();
    number_ = fence_->cell->value();
  }
  storage.uses.touch(fence_, ++number_);
  const std::shared_ptr<Device> device = storage.device();
  device->hold_open();
  threads_.run([device, fence = fence_, number = number_, copy = std::move(copy)]() mutable {
    copy();
    copy = nullptr;
    fence->cell->store(number);
    device->let_close();
  });
}

}  // namespace kvasir::addon
