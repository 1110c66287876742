#include "args.h"
#include "transfers.h"
#include "wraps.h"

namespace kvasir::addon {

namespace {

int op_of(Call& call) { return static_cast<int>(call.integer(0, "op", 0, KVASIR_OP_COUNT - 1)); }

void need_op(const Stream& stream, int op) {
  const kvasir_op& entry = stream.device()->backend()->ops[op];
  if (entry.enqueue == nullptr)
    throw Failure(kUnsupported,
                  std::string(entry.name) + " is not available on " + stream.device()->label() + "; use the CPU device.");
}

napi_value enqueue(StreamWrap& self, Call& call) {
  self.stream.check_usable();
  const int op = op_of(call);
  need_op(self.stream, op);
  Arguments arguments;
  read_arguments(call, 1, self.stream, op, arguments);
  self.stream.run(op, arguments.bytes, arguments.used());
  return call.undefined();
}

napi_value workspace_bytes(StreamWrap& self, Call& call) {
  self.stream.check_usable();
  const int op = op_of(call);
  need_op(self.stream, op);
  Arguments arguments;
  read_arguments(call, 1, self.stream, op, arguments);
  return call.value(static_cast<double>(self.stream.workspace_bytes(op, arguments.bytes)));
}

napi_value finished(StreamWrap& self, Call& call) {
  self.stream.check_usable();
  self.stream.check_not_recording("Waiting");
  return call.bindings.completions.promise(self.stream, std::make_unique<Completion>(call.bindings.completions));
}

const std::shared_ptr<Event>& event_of(Call& call) {
  const EventWrap& wrap = call.object<EventWrap>(0, "event");
  if (wrap.event == nullptr) throw Failure(kDisposed, "The event was disposed; create another.");
  return wrap.event;
}

napi_value record_event(StreamWrap& self, Call& call) {
  self.stream.check_usable();
  self.stream.record_event(event_of(call));
  return call.undefined();
}

napi_value wait_event(StreamWrap& self, Call& call) {
  self.stream.check_usable();
  self.stream.wait_event(event_of(call));
  return call.undefined();
}

napi_value begin_recording(StreamWrap& self, Call& call) {
  self.stream.check_usable();
  self.stream.begin_recording();
  return call.undefined();
}

napi_value end_recording(StreamWrap& self, Call& call) {
  self.stream.check_usable();
  return new_object(call.bindings, std::make_unique<ProgramWrap>(self.bindings, self.stream.end_recording()));
}

napi_value launch(StreamWrap& self, Call& call) {
  self.stream.check_usable();
  self.stream.launch(call.object<ProgramWrap>(0, "program").program);
  return call.undefined();
}

int slot_of(Call& call, size_t index) { return static_cast<int>(call.integer(index, "slot", 0, KVASIR_STAMP_SLOTS - 1)); }

napi_value stamp(StreamWrap& self, Call& call) {
  self.stream.check_usable();
  self.stream.stamp(slot_of(call, 0));
  return call.undefined();
}

napi_value elapsed(StreamWrap& self, Call& call) {
  self.stream.check_usable();
  return call.value(self.stream.elapsed_microseconds(slot_of(call, 0), slot_of(call, 1)));
}

napi_value dispose(StreamWrap& self, Call& call) {
  self.stream.dispose();
  return call.undefined();
}

napi_value query(EventWrap& self, Call& call) {
  if (self.event == nullptr) throw Failure(kDisposed, "The event was disposed; create another.");
  return call.boolean(self.event->reached());
}

napi_value dispose_event(EventWrap& self, Call& call) {
  self.event.reset();
  return call.undefined();
}

napi_value length(ProgramWrap& self, Call& call) { return call.value(static_cast<double>(self.program->length())); }

napi_value dispose_program(ProgramWrap& self, Call& call) {
  self.program->dispose();
  return call.undefined();
}

}  // namespace

void define_stream(Bindings& b) {
  using S = StreamWrap;
  constexpr size_t kValues = 1 + Arguments::kMostFields;  // the op, then one value for each field
  define_class(
      b, Kind::stream, "NativeStream",
      {method_of<S, enqueue, kValues>("enqueue", b), method_of<S, workspace_bytes, kValues>("workspaceBytes", b),
       method_of<S, finished>("finished", b), method_of<S, record_event>("recordEvent", b),
       method_of<S, wait_event>("waitEvent", b), method_of<S, begin_recording>("beginRecording", b),
       method_of<S, end_recording>("endRecording", b), method_of<S, launch>("launch", b), method_of<S, write_tensor>("write", b),
       method_of<S, read_tensor>("read", b), method_of<S, load_tensor>("loadFile", b), method_of<S, copy_tensor>("copy", b),
       method_of<S, fill_tensor>("fill", b), method_of<S, stamp>("stamp", b), method_of<S, elapsed>("elapsedMicroseconds", b),
       method_of<S, dispose>("dispose", b)});
}

void define_event(Bindings& b) {
  define_class(b, Kind::event, "NativeEvent",
               {method_of<EventWrap, query>("query", b), method_of<EventWrap, dispose_event>("dispose", b)});
}

void define_program(Bindings& b) {
  define_class(b, Kind::program, "NativeProgram",
               {getter_of<ProgramWrap, length>("length", b), method_of<ProgramWrap, dispose_program>("dispose", b)});
}

}  // namespace kvasir::addon
