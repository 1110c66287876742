#include "loader.h"

#include <dlfcn.h>
#include <sys/stat.h>

#include "../cpu/backend.h"

namespace kvasir::addon {

namespace {

constexpr char kCudaLibrary[] = "kvasir_cuda.so";

Loaded refuse(std::string reason) { return {nullptr, std::move(reason)}; }

Loaded load_cuda() {
  static const char here = 0;  // any address inside the addon
  Dl_info addon{};
  if (dladdr(&here, &addon) == 0 || addon.dli_fname == nullptr)
    return refuse("The addon's own path is unknown, so " + std::string(kCudaLibrary) + " cannot be found.");
  const std::string own = addon.dli_fname;
  const size_t slash = own.find_last_of('/');
  const std::string path = (slash == std::string::npos ? std::string() : own.substr(0, slash + 1)) + kCudaLibrary;
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return refuse("There is no " + path + ": this build has the CPU backend only.");
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return refuse("The CUDA library does not load: " + std::string(dlerror()) + ".");
  const auto init = reinterpret_cast<kvasir_backend_init_fn>(dlsym(library, KVASIR_BACKEND_SYMBOL));
  if (init == nullptr) return refuse(path + " has no symbol " + KVASIR_BACKEND_SYMBOL + "; it is not a kvasir backend.");
  const kvasir_backend* backend = init();
  if (backend == nullptr) return refuse(path + " gave no backend table.");
  if (backend->abi_version != KVASIR_ABI_VERSION || backend->op_count != KVASIR_OP_COUNT) {
    return refuse(path + " has ABI version " + std::to_string(backend->abi_version) + " with " +
                  std::to_string(backend->op_count) + " ops, the addon " + std::to_string(KVASIR_ABI_VERSION) + " with " +
                  std::to_string(KVASIR_OP_COUNT) + "; build both together.");
  }
  return {backend, {}};
}

}  // namespace

const Loaded& load_backend(const std::string& name) {
  static const Loaded cpu{cpu::backend(), {}};
  static const Loaded unknown{nullptr, "There is no such backend; there are cpu and cuda."};
  if (name == "cpu") return cpu;
  if (name != "cuda") return unknown;
  static const Loaded cuda = load_cuda();
  return cuda;
}

}  // namespace kvasir::addon
