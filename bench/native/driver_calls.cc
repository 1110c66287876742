// Counts calls into the CUDA driver of any program, with no tool installed and whatever the CUDA runtime is linked by:
//
//   g++ -std=c++20 -O2 -shared -fPIC bench/native/driver_calls.cc -ldl -o driver_calls.so
//   DRIVER_CALLS=counts.txt LD_PRELOAD=./driver_calls.so program
//
// The runtime finds cuGetProcAddress by dlsym and every other call through it; both are answered here with functions that count
// and go on to the driver's. At exit each watched call that was asked for is written as a line "kind name count". Kinds: `wait`
// may block the calling thread, `poll` asks and returns, `work` enqueues. All watched calls take at most six register-sized
// arguments.
#include <dlfcn.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace {

using Word = uintptr_t;
using Call = Word (*)(Word, Word, Word, Word, Word, Word);

constexpr struct {
  const char *kind, *name;
} kWatched[] = {
    {"wait", "cuCtxSynchronize"},   {"wait", "cuStreamSynchronize"},
    {"wait", "cuEventSynchronize"}, {"wait", "cuMemcpy"},
    {"wait", "cuMemcpyDtoH"},       {"wait", "cuMemcpyHtoD"},
    {"wait", "cuMemcpyDtoD"},       {"wait", "cuMemcpy2D"},
    {"wait", "cuMemcpy3D"},         {"wait", "cuMemcpyPeer"},
    {"wait", "cuMemAlloc"},         {"wait", "cuMemFree"},
    {"wait", "cuMemHostAlloc"},     {"wait", "cuMemFreeHost"},
    {"poll", "cuStreamQuery"},      {"poll", "cuEventQuery"},
    {"work", "cuGraphLaunch"},      {"work", "cuLaunchKernelEx"},
    {"work", "cuLaunchHostFunc"},   {"work", "cuMemcpyAsync"},
    {"work", "cuMemcpyHtoDAsync"},  {"work", "cuMemcpyDtoHAsync"},
    {"work", "cuMemcpyDtoDAsync"},  {"work", "cuMemsetD8Async"},
    {"work", "cuMemAllocAsync"},    {"work", "cuMemAllocFromPoolAsync"},
    {"work", "cuMemFreeAsync"},     {"work", "cuEventRecord"},
};

// One of our functions and the driver's function behind it. A name has several: versions, and those of per-thread default
// streams.
struct Counter {
  Call driver = nullptr;
  size_t watched = 0;
  std::atomic<long> count{0};
};
constexpr size_t kCounters = 128;
Counter counters[kCounters];
size_t used = 0;
std::mutex lock;

template <size_t I>
Word counted(Word a, Word b, Word c, Word d, Word e, Word f) {
  counters[I].count.fetch_add(1, std::memory_order_relaxed);
  return counters[I].driver(a, b, c, d, e, f);
}

template <size_t... I>
void* counting_function(size_t wanted, std::index_sequence<I...>) {
  static constexpr Call functions[] = {counted<I>...};
  return reinterpret_cast<void*>(functions[wanted]);
}

// Whether `name` is that of a watched call, or that with an ending: cuMemcpyDtoH_v2, cuStreamSynchronize_ptsz.
bool names(const char* name, const char* watched) {
  const size_t length = strlen(watched);
  return strncmp(name, watched, length) == 0 && (name[length] == '\0' || name[length] == '_');
}

// What to hand out for the driver's function `found`: ours where the call is watched.
void* answer(const char* name, void* found) {
  for (size_t i = 0; i < std::size(kWatched); ++i) {
    if (!names(name, kWatched[i].name)) continue;
    const std::lock_guard guard(lock);
    size_t at = 0;
    while (at < used && counters[at].driver != reinterpret_cast<Call>(found)) ++at;
    if (at == kCounters) return found;
    if (at == used) counters[used++].driver = reinterpret_cast<Call>(found), counters[at].watched = i;
    return counting_function(at, std::make_index_sequence<kCounters>());
  }
  return found;
}

using GetProc = int (*)(const char*, void**, int, uint64_t);
using GetProcV2 = int (*)(const char*, void**, int, uint64_t, int*);
std::atomic<GetProc> driver_get_proc{nullptr};
std::atomic<GetProcV2> driver_get_proc_v2{nullptr};

int get_proc(const char* name, void** found, int version, uint64_t flags);
int get_proc_v2(const char* name, void** found, int version, uint64_t flags, int* status);

// cuGetProcAddress itself is asked for in either way too; from CUDA 12 on its plain name means the second form.
void* intercept(const char* name, void* found, bool is_v2) {
  if (found == nullptr || found == reinterpret_cast<void*>(get_proc) || found == reinterpret_cast<void*>(get_proc_v2))
    return found;
  if (!names(name, "cuGetProcAddress")) return answer(name, found);
  if (is_v2 || strcmp(name, "cuGetProcAddress_v2") == 0) {
    driver_get_proc_v2 = reinterpret_cast<GetProcV2>(found);
    return reinterpret_cast<void*>(get_proc_v2);
  }
  driver_get_proc = reinterpret_cast<GetProc>(found);
  return reinterpret_cast<void*>(get_proc);
}

int get_proc(const char* name, void** found, int version, uint64_t flags) {
  const int result = driver_get_proc.load()(name, found, version, flags);
  if (result == 0 && found != nullptr) *found = intercept(name, *found, version >= 12000);
  return result;
}

int get_proc_v2(const char* name, void** found, int version, uint64_t flags, int* status) {
  const int result = driver_get_proc_v2.load()(name, found, version, flags, status);
  if (result == 0 && found != nullptr) *found = intercept(name, *found, version >= 12000);
  return result;
}

using Dlsym = void* (*)(void*, const char*) noexcept;

Dlsym real_dlsym() {
  static const Dlsym real = [] {
    for (const char* version : {"GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_2.17"})
      if (void* found = dlvsym(RTLD_NEXT, "dlsym", version)) return reinterpret_cast<Dlsym>(found);
    abort();
  }();
  return real;
}

__attribute__((destructor)) void report() {
  const char* path = getenv("DRIVER_CALLS");
  FILE* file = path == nullptr || used == 0 ? nullptr : fopen(path, "w");
  if (file == nullptr) return;
  std::map<std::string, long> counts;
  for (size_t i = 0; i < used; ++i) {
    const auto& [kind, name] = kWatched[counters[i].watched];
    counts[std::string(kind) + " " + name] += counters[i].count.load();
  }
  for (const auto& [call, count] : counts) fprintf(file, "%s %ld\n", call.c_str(), count);
  fclose(file);
}

}  // namespace

// Others' lookups go on by a tail call, so that RTLD_NEXT still means: after the caller.
extern "C" __attribute__((visibility("default"))) void* dlsym(void* handle, const char* name) noexcept {
  if (strncmp(name, "cu", 2) != 0) return real_dlsym()(handle, name);
  return intercept(name, real_dlsym()(handle, name), false);
}
