#include "probe.h"

#include <dlfcn.h>

#include <cstdio>
#include <string>
#include <vector>

#include "../../native/core/status.h"

namespace kvasir::cuda {

namespace {

constexpr int kArchitectures[] = {__CUDA_ARCH_LIST__};  // as 800, 900
constexpr int kOldest = 80;                             // bf16 matrix instructions and asynchronous copies

__global__ void probe_kernel() {}

// Machine code runs on its own major version, from its own minor version up.
bool has_machine_code(int capability) {
  for (const int arch : kArchitectures) {
    if (arch / 100 == capability / 10 && arch / 10 <= capability) return true;
  }
  return false;
}

std::string version_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

std::string driver_reason() {
  void* const driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (driver == nullptr)
    return "library: libcuda.so.1 was not found; install the NVIDIA driver, or give the container access to it.";
  dlclose(driver);
  int version = 0;
  if (cudaDriverGetVersion(&version) != cudaSuccess || version == 0) {
    return "driver: libcuda.so.1 is here, but the NVIDIA kernel driver does not answer; load it, or give the container access to "
           "the GPU.";
  }
  return "driver: it supports CUDA " + version_text(version) + ", but this build needs CUDA " +
         version_text(CUDART_VERSION / 1000 * 1000) + " or newer; update the NVIDIA driver.";
}

std::string reason(cudaError_t error) {
  switch (error) {
    case cudaErrorInsufficientDriver:
    case cudaErrorStubLibrary:
    case cudaErrorCallRequiresNewerDriver: return driver_reason();
    case cudaErrorNoDevice:
      return "device: the driver reports no GPU; is one visible (CUDA_VISIBLE_DEVICES, container settings)?";
    case cudaErrorSystemDriverMismatch:
      return "driver: its kernel module and libcuda.so.1 are of different versions; restart the host after the update.";
    case cudaErrorCompatNotSupportedOnDevice:
      return "driver: forward compatibility is not supported on this GPU; update the NVIDIA driver.";
    case cudaErrorSystemNotReady: return "driver: it is not ready yet; on hosts with NVSwitch, start the fabric manager.";
    default: return std::string("driver: it fails with ") + cudaGetErrorName(error) + " (" + cudaGetErrorString(error) + ").";
  }
}

struct Found {
  std::vector<int> ordinals;
  std::string why;  // the first refusal
};

Found find_devices() {
  Found found;
  int count = 0;
  const cudaError_t result = cudaGetDeviceCount(&count);
  if (result != cudaSuccess || count == 0) {
    cudaGetLastError();
    found.why = reason(result == cudaSuccess ? cudaErrorNoDevice : result);
    return found;
  }
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    int major = 0, minor = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, ordinal);
    const int capability = 10 * major + minor;
    bool usable = capability >= kOldest;
    // Without machine code of its own the device may still compile what is carried as PTX: only a try tells.
    if (usable && !has_machine_code(capability)) {
      usable = cudaSetDevice(ordinal) == cudaSuccess && probe_code() == cudaSuccess;
      cudaGetLastError();
    }
    if (usable) {
      found.ordinals.push_back(ordinal);
    } else if (found.why.empty()) {
      const std::string of = "compute capability: device " + std::to_string(ordinal) + " is of " + std::to_string(major) + "." +
                             std::to_string(minor);
      found.why = capability < kOldest ? of + ", but 8.0 is the oldest supported."
                                       : of + ", but this build carries code for " + compiled_architectures() +
                                             " only; rebuild with KVASIR_CUDA_ARCHS=" + std::to_string(capability) + ".";
    }
  }
  return found;
}

}  // namespace

const char* compiled_architectures() {
  static const std::string text = [] {
    std::string all;
    for (const int arch : kArchitectures) all += (all.empty() ? "sm_" : ", sm_") + std::to_string(arch / 10);
    return all;
  }();
  return text.c_str();
}

cudaError_t probe_code() {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, probe_kernel);
}

int32_t count_usable_devices(kvasir_error* why) {
  const Found found = find_devices();
  if (found.ordinals.empty()) fail(why, KVASIR_UNAVAILABLE, "%s", found.why.c_str());
  return static_cast<int32_t>(found.ordinals.size());
}

kvasir_status usable_ordinal(int32_t index, int* ordinal, kvasir_error* err) {
  const Found found = find_devices();
  if (found.ordinals.empty()) return fail(err, KVASIR_UNAVAILABLE, "%s", found.why.c_str());
  if (index < 0 || static_cast<size_t>(index) >= found.ordinals.size()) {
    return fail(err, KVASIR_UNAVAILABLE, "device: index %d was asked for, but this host has %zu usable CUDA device%s.", index,
                found.ordinals.size(), found.ordinals.size() == 1 ? "" : "s");
  }
  *ordinal = found.ordinals[static_cast<size_t>(index)];
  return KVASIR_OK;
}

}  // namespace kvasir::cuda
