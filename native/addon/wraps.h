// The JavaScript classes: lib/native.ts says what their methods mean.
#pragma once
#include <memory>

#include "bindings.h"
#include "device.h"
#include "event.h"
#include "memory.h"
#include "program.h"
#include "stream.h"
#include "transfer_stream.h"
#include "wrap.h"

namespace kvasir::addon {

struct DeviceWrap : Wrapped {
  static constexpr Kind kKind = Kind::device;
  static constexpr char kName[] = "device";
  DeviceWrap(std::shared_ptr<Bindings> b, std::shared_ptr<Device> d) : Wrapped(kKind, std::move(b)), device(std::move(d)) {}
  const std::shared_ptr<Device> device;
};

struct StreamWrap : Wrapped {
  static constexpr Kind kKind = Kind::stream;
  static constexpr char kName[] = "stream";
  StreamWrap(std::shared_ptr<Bindings> b, std::shared_ptr<Device> d) : Wrapped(kKind, std::move(b)), stream(std::move(d)) {}
  Stream stream;
};

struct TransferStreamWrap : Wrapped {
  static constexpr Kind kKind = Kind::transfer_stream;
  static constexpr char kName[] = "transfer stream";
  TransferStreamWrap(std::shared_ptr<Bindings> b, std::shared_ptr<Device> d)
      : Wrapped(kKind, std::move(b)), stream(std::move(d)) {}
  TransferStream stream;
};

struct TransferWrap : Wrapped {
  static constexpr Kind kKind = Kind::transfer;
  static constexpr char kName[] = "transfer";
  TransferWrap(std::shared_ptr<Bindings> b, std::shared_ptr<PageTransfer> t)
      : Wrapped(kKind, std::move(b)), transfer(std::move(t)) {}
  const std::shared_ptr<PageTransfer> transfer;
};

struct EventWrap : Wrapped {
  static constexpr Kind kKind = Kind::event;
  static constexpr char kName[] = "event";
  EventWrap(std::shared_ptr<Bindings> b, std::shared_ptr<Event> e) : Wrapped(kKind, std::move(b)), event(std::move(e)) {}
  std::shared_ptr<Event> event;  // null once disposed
};

struct ProgramWrap : Wrapped {
  static constexpr Kind kKind = Kind::program;
  static constexpr char kName[] = "program";
  ProgramWrap(std::shared_ptr<Bindings> b, std::shared_ptr<Program> p) : Wrapped(kKind, std::move(b)), program(std::move(p)) {}
  std::shared_ptr<Program> program;
};

struct TensorWrap : Wrapped {
  static constexpr Kind kKind = Kind::tensor;
  static constexpr char kName[] = "tensor";
  TensorWrap(std::shared_ptr<Bindings> b, std::shared_ptr<Storage> s, const kvasir_tensor& v)
      : Wrapped(kKind, std::move(b)), storage(std::move(s)), view(v) {}
  std::shared_ptr<Storage> storage;  // null once disposed
  const kvasir_tensor view;

  int64_t elements() const;
  size_t bytes() const;
  bool contiguous() const;
  // Throws ERR_KVASIR_DISPOSED.
  void check_usable(const char* name) const;
};

void define_device(Bindings& bindings);
void define_stream(Bindings& bindings);
void define_transfer_stream(Bindings& bindings);
void define_tensor(Bindings& bindings);
void define_event(Bindings& bindings);
void define_program(Bindings& bindings);
void define_slab(Bindings& bindings);

napi_value create_slab(Call& call);
napi_value create_tensor(Call& call, const std::shared_ptr<Device>& device);
// { tensor, ready }: memory that is touched and page-locked off this thread; pinned_for may be null.
napi_value create_host_tensor(Call& call, const std::shared_ptr<Device>& device, std::shared_ptr<Device> pinned_for);
// Elements that a strided tensor spans, from its first to its last.
int64_t span_of(const kvasir_tensor& view);

}  // namespace kvasir::addon
