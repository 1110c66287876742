#include <cstdlib>
#include <cstring>

#include "wraps.h"

namespace kvasir::addon {

namespace {

struct NamedNumber {
  const char* name;
  double value;
};

void set(Call& call, napi_value object, const char* name, napi_value value) {
  ok(call.env, napi_set_named_property(call.env, object, name, value));
}

napi_value object_of(Call& call, std::initializer_list<NamedNumber> numbers) {
  napi_value object = nullptr;
  ok(call.env, napi_create_object(call.env, &object));
  for (const NamedNumber& number : numbers) set(call, object, number.name, call.value(number.value));
  return object;
}

napi_value info(DeviceWrap& self, Call& call) {
  Device& device = *self.device;
  if (device.disposed()) device.check_usable();
  kvasir_device_info info;
  device.backend()->device_info(device.handle(), &info);
  const napi_value object = object_of(call, {{"totalBytes", static_cast<double>(info.total_bytes)},
                                             {"multiprocessors", static_cast<double>(info.multiprocessors)},
                                             {"driverVersion", static_cast<double>(info.driver_version)},
                                             {"runtimeVersion", static_cast<double>(info.runtime_version)},
                                             {"l2Bytes", static_cast<double>(info.l2_bytes)}});
  set(call, object, "name", call.value(std::string(info.name)));
  set(call, object, "isa", call.value(std::string(info.isa)));
  set(call, object, "hasBlas", call.boolean(info.has_blas != 0));
  return object;
}

napi_value memory(DeviceWrap& self, Call& call) {
  Device& device = *self.device;
  device.check_usable();
  kvasir_error err{};
  int64_t free = 0, total = 0;
  check(device.backend()->memory_info(device.handle(), &free, &total, &err), err);
  return object_of(call, {{"allocatedBytes", static_cast<double>(device.allocated_bytes())},
                          {"reservedBytes", static_cast<double>(device.pool().reserved_bytes())},
                          {"freeBytes", static_cast<double>(free)},
                          {"totalBytes", static_cast<double>(total)}});
}

napi_value trim(DeviceWrap& self, Call& call) {
  self.device->check_usable();
  self.device->pool().trim();
  return call.undefined();
}

napi_value create_stream(DeviceWrap& self, Call& call) {
  return new_object(call.bindings, std::make_unique<StreamWrap>(self.bindings, self.device));
}

napi_value create_transfer_stream(DeviceWrap& self, Call& call) {
  return new_object(call.bindings, std::make_unique<TransferStreamWrap>(self.bindings, self.device));
}

napi_value create_event(DeviceWrap& self, Call& call) {
  self.device->check_usable();
  return new_object(call.bindings, std::make_unique<EventWrap>(self.bindings, std::make_shared<Event>(call.bindings.native)));
}

napi_value create(DeviceWrap& self, Call& call) {
  self.device->check_usable();
  return create_tensor(call, self.device);
}

// createHostTensor(dtype, shape, pinnedFor | undefined, allowUnpinned, threads)
napi_value create_host(DeviceWrap& self, Call& call) {
  self.device->check_usable();
  napi_valuetype type = napi_undefined;
  ok(call.env, napi_typeof(call.env, call.arguments[2], &type));
  std::shared_ptr<Device> pinned_for;
  if (type != napi_undefined) {
    pinned_for = call.object<DeviceWrap>(2, "pinnedFor").device;
    pinned_for->check_usable();
  }
  return create_host_tensor(call, self.device, std::move(pinned_for));
}

napi_value check_device(DeviceWrap& self, Call& call) {
  self.device->check_usable();
  self.device->poll_lost();
  self.device->check_usable();
  return call.undefined();
}

napi_value inject_fault(DeviceWrap& self, Call& call) {
  const char* debug = std::getenv("KVASIR_DEBUG");
  if (debug == nullptr || std::strstr(debug, "faults") == nullptr) {
    throw Failure(kUnsupported, "Faults are injected for tests alone; set KVASIR_DEBUG=faults.");
  }
  self.device->check_usable();
  self.device->lose("A fault was injected into " + self.device->label() +
                    ", as KVASIR_DEBUG=faults allows; open the device anew.");
  return call.undefined();
}

napi_value dispose(DeviceWrap& self, Call& call) {
  self.device->dispose();
  return call.undefined();
}

}  // namespace

void define_device(Bindings& b) {
  using D = DeviceWrap;
  define_class(b, Kind::device, "NativeDevice",
               {method_of<D, info>("info", b), method_of<D, memory>("memory", b), method_of<D, trim>("trim", b),
                method_of<D, create_stream>("createStream", b), method_of<D, create_transfer_stream>("createTransferStream", b),
                method_of<D, create_event>("createEvent", b), method_of<D, create>("createTensor", b),
                method_of<D, create_host>("createHostTensor", b), method_of<D, check_device>("check", b),
                method_of<D, inject_fault>("injectFault", b), method_of<D, dispose>("dispose", b)});
}

}  // namespace kvasir::addon
