// Copies, callbacks, flags, programs, stamps and failures that a device survives; and, in a process of its own, one that it does
// not.
#include <atomic>
#include <chrono>
#include <thread>

#include "harness.h"

namespace driver {

namespace {

struct Answer {
  std::atomic<int> calls{0};
  std::atomic<int> status{-1};
};
void answered(void* user, kvasir_status status, const char*) {
  auto* answer = static_cast<Answer*>(user);
  answer->status = status;
  ++answer->calls;
}
bool wait_for(const Answer& answer, double seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (answer.calls == 0 && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return answer.calls == 1;
}

void copies(Gpu& gpu) {
  kvasir_error err{};
  for (const size_t bytes : {size_t{1}, size_t{3583}, size_t{3584}, size_t{3585}, size_t{100001}, size_t{7000003}}) {
    for (const bool pinned : {false, true}) {
      void* pinned_memory = nullptr;
      if (pinned) gpu.ok(gpu.backend->host_alloc(gpu.device, bytes, &pinned_memory, &err), err, "host_alloc");
      std::vector<char> memory(pinned ? 0 : bytes);
      char* source = pinned ? static_cast<char*>(pinned_memory) : memory.data();
      for (size_t i = 0; i < bytes; ++i) source[i] = static_cast<char>(i * 7 + i / 251);
      auto* target = static_cast<char*>(gpu.allocate(bytes + 1)) + 1;  // at an odd address
      char* second = static_cast<char*>(gpu.allocate(bytes));
      gpu.ok(gpu.backend->copy_in(gpu.stream, target, source, bytes, 1, &err), err, "copy_in");
      gpu.ok(gpu.backend->copy(gpu.stream, second, target, bytes, &err), err, "copy");
      std::vector<char> back(bytes, 0);
      gpu.ok(gpu.backend->copy_out(gpu.stream, back.data(), second, bytes, &err), err, "copy_out");
      gpu.finish();
      expect(memcmp(back.data(), source, bytes) == 0,
             "copies of " + std::to_string(bytes) + (pinned ? " pinned" : " pageable") + " bytes");
      if (pinned) gpu.backend->host_free(gpu.device, pinned_memory);
      gpu.release();
    }
  }
}

void flags(Gpu& gpu) {
  kvasir_error err{};
  auto* cells = static_cast<uint64_t*>(aligned_alloc(4096, 4096));
  memset(cells, 0, 4096);
  gpu.ok(gpu.backend->host_register(gpu.device, cells, 4096, &err), err, "host_register");
  kvasir_stream* other = nullptr;
  gpu.ok(gpu.backend->stream_create(gpu.device, &other, &err), err, "stream_create");

  auto* value = static_cast<char*>(gpu.allocate(4));
  const int first = 5, second = 9;
  Answer waited, free_running;
  gpu.ok(gpu.backend->flag_wait(gpu.stream, &cells[0], 1, nullptr, &err), err, "flag_wait");
  gpu.ok(gpu.backend->copy_in(gpu.stream, value, &second, 4, 1, &err), err, "copy_in");
  gpu.ok(gpu.backend->stream_callback(gpu.stream, answered, &waited, &err), err, "stream_callback");
  gpu.ok(gpu.backend->copy_in(other, value, &first, 4, 1, &err), err, "copy_in");
  gpu.ok(gpu.backend->stream_callback(other, answered, &free_running, &err), err, "stream_callback");
  expect(wait_for(free_running, 10) && waited.calls == 0, "a stream waits for its flag, and another does not");
  gpu.ok(gpu.backend->flag_write(other, &cells[0], 1, nullptr, &err), err, "flag_write");
  expect(wait_for(waited, 10) && waited.status == KVASIR_OK, "a flag written by one stream lets another go on");
  int got = 0;
  gpu.ok(gpu.backend->copy_out(gpu.stream, &got, value, 4, &err), err, "copy_out");
  gpu.finish();
  expect(got == second && cells[0] == 1, "work after the flag comes after work before it");

  // Relative to a base, as inside programs; and released by the host.
  cells[8] = 40;
  Answer relative;
  gpu.ok(gpu.backend->flag_wait(gpu.stream, &cells[16], 2, &cells[8], &err), err, "flag_wait");
  gpu.ok(gpu.backend->flag_write(gpu.stream, &cells[24], 3, &cells[8], &err), err, "flag_write");
  gpu.ok(gpu.backend->stream_callback(gpu.stream, answered, &relative, &err), err, "stream_callback");
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const bool early = relative.calls != 0;
  __atomic_store_n(&cells[16], 42, __ATOMIC_RELEASE);
  expect(!early && wait_for(relative, 10) && cells[24] == 43, "flags relative to a base");

  gpu.backend->stream_destroy(other);
  gpu.backend->host_unregister(gpu.device, cells);
  free(cells);
  gpu.release();
}

void programs(Gpu& gpu) {
  kvasir_error err{};
  Array x = gpu.random(KVASIR_F32, {4, 64}), weight = gpu.array(KVASIR_F32, {64}, std::vector<float>(64, 2.f)),
        out = gpu.poisoned(KVASIR_F32, {4, 64});
  kvasir_rms_norm_args norm{};
  norm.x = x.t, norm.weight = weight.t, norm.out = out.t, norm.eps = 1e-5f;
  kvasir_program* program = nullptr;
  gpu.ok(gpu.backend->record_begin(gpu.stream, &err), err, "record_begin");
  int host = 0;
  expect(gpu.backend->copy_out(gpu.stream, &host, x.t.data, 4, &err) == KVASIR_UNSUPPORTED, "copy_out is refused in a recording");
  Answer refused;
  expect(gpu.backend->stream_callback(gpu.stream, answered, &refused, &err) == KVASIR_UNSUPPORTED,
         "a callback is refused in a recording");
  gpu.ok(gpu.backend->stamp(gpu.stream, 0, &err), err, "stamp");
  gpu.ok(gpu.backend->ops[KVASIR_OP_RMS_NORM].enqueue(gpu.stream, &norm, nullptr, 0, &err), err, "rms_norm");
  gpu.ok(gpu.backend->copy(gpu.stream, x.t.data, out.t.data, 1024, &err), err, "copy");
  gpu.ok(gpu.backend->stamp(gpu.stream, 1, &err), err, "stamp");
  gpu.ok(gpu.backend->record_end(gpu.stream, &program, &err), err, "record_end");
  gpu.fetch(out);
  expect(std::isnan(out.at(0, 0)), "a recording runs nothing");
  double microseconds = -1;
  expect(gpu.backend->elapsed_us(gpu.stream, 0, 7, &microseconds, &err) == KVASIR_INVALID_ARGUMENT,
         "a stamp that was not passed is refused");
  for (int i = 0; i < 3; ++i) gpu.ok(gpu.backend->program_launch(program, gpu.stream, &err), err, "program_launch");
  gpu.backend->program_destroy(program);  // while it may be running
  gpu.fetch(out);
  double sum = 0;
  for (int64_t i = 0; i < 64; ++i) sum += static_cast<double>(out.at(0, i)) * out.at(0, i);
  expect(std::fabs(sum / 64 - 4) < 1e-3, "a program runs at each launch and may be destroyed in flight");
  gpu.ok(gpu.backend->elapsed_us(gpu.stream, 0, 1, &microseconds, &err), err, "elapsed_us");
  expect(microseconds > 0 && microseconds < 1e6, "stamps in a program");
  gpu.release();
}

void exhaustion(Gpu& gpu) {
  kvasir_error err{};
  void* data = nullptr;
  expect(gpu.backend->alloc(gpu.device, size_t{1} << 46, &data, &err) == KVASIR_OUT_OF_MEMORY && data == nullptr,
         "64 TiB are refused as out of memory");
  gpu.ok(gpu.backend->device_status(gpu.device, &err), err, "the status after running out of memory");
  kvasir_device_options options{};
  options.memory_limit = 1 << 20;
  kvasir_device* limited = nullptr;
  gpu.ok(gpu.backend->device_open(&options, &limited, &err), err, "device_open");
  void* half = nullptr;
  gpu.ok(gpu.backend->alloc(limited, 600000, &half, &err), err, "alloc");
  expect(gpu.backend->alloc(limited, 600000, &data, &err) == KVASIR_OUT_OF_MEMORY, "the memory limit holds");
  gpu.backend->free(limited, half);
  gpu.ok(gpu.backend->alloc(limited, 600000, &half, &err), err, "alloc");
  gpu.backend->device_close(limited);  // frees what is left
  options.memory_limit = 0, options.index = 1000;
  expect(gpu.backend->device_open(&options, &limited, &err) == KVASIR_UNAVAILABLE && err.text[0] != '\0',
         "a device that is not there is named");
}

}  // namespace

void check_runtime(Gpu& gpu) {
  copies(gpu);
  flags(gpu);
  programs(gpu);
  exhaustion(gpu);
}

// Loses the device by a wild write while a callback waits behind it: the callback must be answered, and every later call must
// fail.
void lose_device(Gpu& gpu) {
  kvasir_error err{};
  auto* wild = reinterpret_cast<char*>(uintptr_t{0x7fff00000000});
  kvasir_tensor ids = gpu.ints(std::vector<int>(64, 0));
  kvasir_argmax_args args{gpu.random(KVASIR_F32, {64, 8}).t, ids};
  args.out.data = wild;
  Answer answer;
  gpu.ok(gpu.backend->ops[KVASIR_OP_ARGMAX].enqueue(gpu.stream, &args, nullptr, 0, &err), err, "argmax");
  const kvasir_status asked = gpu.backend->stream_callback(gpu.stream, answered, &answer, &err);
  expect(asked == KVASIR_DEVICE_LOST || (wait_for(answer, 10) && answer.status == KVASIR_DEVICE_LOST),
         "a callback behind a fault is answered with it");
  expect(gpu.backend->device_status(gpu.device, &err) == KVASIR_DEVICE_LOST, "a lost device says so");
  printf("        %s\n", err.text);
  void* data = nullptr;
  expect(gpu.backend->alloc(gpu.device, 16, &data, &err) == KVASIR_DEVICE_LOST, "a lost device stays lost");
}

}  // namespace driver
