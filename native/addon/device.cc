#include "device.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "event.h"
#include "failure.h"
#include "host_memory.h"
#include "load_file.h"
#include "program.h"
#include "stream.h"

namespace kvasir::addon {

namespace {

class CloseJob : public Job {
 public:
  explicit CloseJob(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  Step step() override {
    if (!device_->try_close()) return Step::waiting;
    device_->environment().ending.fetch_sub(1);
    return Step::done;
  }

 private:
  std::shared_ptr<Device> device_;
};

uint64_t product_key(const kvasir_linear_args& args) {
  uint64_t key = 0;
  const auto mix = [&key](int64_t value) { key = (key ^ static_cast<uint64_t>(value)) * 0x9e3779b97f4a7c15u + (key >> 29); };
  for (const int64_t value : {args.x.shape[0], args.x.shape[1], args.weight.shape[0], args.x.stride[0], args.out.stride[0]})
    mix(value);
  for (const int32_t value : {args.x.dtype, args.out.dtype, args.bias.rank, args.batch_invariant}) mix(value);
  return key;
}

}  // namespace

void Environment::let_endings_catch_up() const {
  constexpr int kMostEnding = 64, kMostNaps = 200;
  for (int nap = 0; nap < kMostNaps && ending.load() > kMostEnding; ++nap)
    std::this_thread::sleep_for(std::chrono::microseconds(100));
}

void Environment::close() {
  for (Ending* ending : std::exchange(endings, {})) ending->end();
  const std::vector<std::weak_ptr<Device>> open = std::move(devices);
  for (const std::weak_ptr<Device>& device : open) {
    if (const std::shared_ptr<Device> live = device.lock()) live->dispose();
  }
  background.finish();
}

std::shared_ptr<Device> Device::open(std::shared_ptr<Environment> environment, const kvasir_backend* backend,
                                     const kvasir_device_options& options) {
  environment->let_endings_catch_up();
  kvasir_error err{};
  kvasir_device* handle = nullptr;
  check(backend->device_open(&options, &handle, &err), err);
  std::shared_ptr<Device> device;
  try {
    device.reset(new Device(environment, backend, handle, options.index), [](Device* last) {
      // Nothing refers to the device any more, so it has no streams; if it was never disposed, it is still to be closed.
      std::shared_ptr<Device> own(last);
      if (!own->disposed()) own->close_soon();
    });
    environment->flags.attach(backend, handle);
  } catch (...) {
    if (device == nullptr) backend->device_close(handle);
    throw;
  }
  std::erase_if(environment->devices, [](const std::weak_ptr<Device>& old) { return old.expired(); });
  environment->devices.push_back(device);
  return device;
}

Device::Device(std::shared_ptr<Environment> environment, const kvasir_backend* backend, kvasir_device* handle, int index)
    : environment_(std::move(environment)),
      backend_(backend),
      handle_(handle),
      label_(backend->name),
      on_host_(std::strcmp(backend->name, "cpu") == 0),
      pool_(*this) {
  if (!on_host_) label_ += ":" + std::to_string(index);
}

Device::~Device() = default;

StagingRing& Device::staging() {
  if (staging_ == nullptr) staging_ = std::make_unique<StagingRing>(*this);
  return *staging_;
}

int64_t Device::free_bytes() const {
  kvasir_error err{};
  int64_t free = 0, total = 0;
  return backend_->memory_info(handle_, &free, &total, &err) == KVASIR_OK ? free : 0;
}

void Device::check_usable() {
  if (disposed()) throw Failure(kDisposed, "The device was disposed; open another.");
  if (!lost()) return;
  release_waiters();
  throw Failure(kDeviceLost, lost_sentence());
}

std::string Device::lost_sentence() const {
  const std::lock_guard lock(lost_lock_);
  return lost_sentence_;
}

void Device::lose(const std::string& sentence) {
  const std::lock_guard lock(lost_lock_);
  if (lost_) return;
  lost_sentence_ = sentence;
  lost_.store(true, std::memory_order_release);
}

bool Device::poll_lost() {
  kvasir_error err{};
  if (!lost() && backend_->device_status(handle_, &err) != KVASIR_OK) lose(err.text);
  return lost();
}

void Device::release_waiters() {
  if (waiters_released_) return;
  waiters_released_ = true;
  if (on_host_) return;  // the CPU backend goes on passing flags
  for (AnyStream* stream : streams_) stream->fence()->cell->poison();
  for (Event* event : environment_->events) event->release_if_recorded_on(*this);
}

bool Device::is_new_product(const kvasir_linear_args& args) { return !on_host_ && products_.insert(product_key(args)).second; }

void Device::dispose() {
  if (disposed()) return;
  if (lost()) release_waiters();
  while (!programs_.empty()) (*programs_.begin())->dispose();
  while (!streams_.empty()) (*streams_.begin())->dispose();
  while (!host_memories_.empty()) (*host_memories_.begin())->end_on(*this);
  foreign.request();
  close_soon();
}

void Device::close_soon() {
  disposed_.store(true, std::memory_order_release);
  environment_->ending.fetch_add(1);
  environment_->background.submit(std::make_unique<CloseJob>(shared_from_this()));
}

bool Device::try_close() {
  if (holds_.load() > 0 || !foreign.passed()) return false;
  const Standstills::Hold standstill = environment_->standstills.try_begin();
  if (!standstill.owns_lock()) return false;
  staging_.reset();
  pool_.clear();
  environment_->flags.detach(backend_, handle_);
  backend_->device_close(handle_);
  return true;
}

}  // namespace kvasir::addon
