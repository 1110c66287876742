// Runs the CUDA backend through its ABI on small shapes against loops on the host: meant for compute-sanitizer, with no Node in
// the way.
//
//   kvasir_driver path/to/kvasir_cuda.so [runtime|pages|rows|linear|sampling|paging|attention|lose ...]
//
// All but lose run by default; lose ends with a device that only a new process can use again. CMake builds it with
// KVASIR_DRIVER=ON, or
//   g++ -std=c++20 -O2 tests/cuda/driver/*.cc -ldl -lpthread -o kvasir_driver
#include <dlfcn.h>

#include <chrono>
#include <iterator>

#include "harness.h"

int main(int argc, char** argv) {
  using namespace driver;
  if (argc < 2) {
    printf("usage: %s path/to/kvasir_cuda.so [part ...]\n", argv[0]);
    return 2;
  }
  void* const module = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (module == nullptr) {
    printf("%s\n", dlerror());
    return 1;
  }
  const auto init = reinterpret_cast<kvasir_backend_init_fn>(dlsym(module, KVASIR_BACKEND_SYMBOL));
  Gpu gpu;
  gpu.backend = init();
  kvasir_error err{};
  if (gpu.backend->probe(&err) == 0) {
    printf("no usable device: %s\n", err.text);
    return 77;
  }
  const kvasir_device_options options{};
  gpu.ok(gpu.backend->device_open(&options, &gpu.device, &err), err, "device_open");
  gpu.ok(gpu.backend->stream_create(gpu.device, &gpu.stream, &err), err, "stream_create");
  kvasir_device_info info{};
  gpu.backend->device_info(gpu.device, &info);
  printf("%s, %s, %d multiprocessors, driver %d, runtime %d, cuBLASLt %s\n", info.name, info.isa, info.multiprocessors,
         info.driver_version, info.runtime_version, info.has_blas ? "found" : "not used");

  const struct {
    const char* name;
    void (*run)(Gpu&);
    bool by_default;
  } parts[] = {{"runtime", check_runtime, true},     {"pages", check_page_copy, true},   {"rows", check_row_ops, true},
               {"linear", check_linear, true},       {"sampling", check_sampling, true}, {"paging", check_paging, true},
               {"attention", check_attention, true}, {"lose", lose_device, false}};
  for (const auto& part : parts) {
    bool wanted = argc == 2 && part.by_default;
    for (int i = 2; i < argc; ++i) wanted = wanted || strcmp(argv[i], part.name) == 0;
    if (!wanted) continue;
    const int failed = failures, done = checks;
    const auto start = std::chrono::steady_clock::now();
    part.run(gpu);
    printf("%-10s %5d checks, %d failed, %.2f s\n", part.name, checks - done, failures - failed,
           std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    fflush(stdout);
  }
  gpu.backend->stream_destroy(gpu.stream);
  gpu.backend->device_close(gpu.device);
  printf("%s\n", failures == 0 ? "ok" : "FAILED");
  return failures == 0 ? 0 : 1;
}
