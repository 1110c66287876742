#include "host.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <thread>

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

namespace kvasir::cpu {

namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr int kComputeNice = 5;

#ifdef __linux__

// The directories of this process's cgroup, innermost first: a limit may sit on any of them. v1: of the named controller; v2: "".
std::string cgroup_path(const std::string& controller) {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string names = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool match = controller.empty() ? names == ",," : names.find("," + controller + ",") != std::string::npos;
    if (match) return line.substr(second + 1);
  }
  return "/";
}

// Calls visit with every directory from the process's cgroup up to the root of the hierarchy.
template <class Visit>
void each_cgroup(const std::string& root, std::string path, const Visit& visit) {
  while (true) {
    visit(root + path);
    const size_t slash = path.find_last_of('/');
    if (slash == std::string::npos || path == "/") return;
    path = slash == 0 ? "/" : path.substr(0, slash);
  }
}

int64_t read_number(const std::string& path) {
  std::ifstream file(path);
  int64_t value = -1;
  return file >> value ? value : -1;
}

double cgroup_cores() {
  double cores = 1e9;
  each_cgroup("/sys/fs/cgroup", cgroup_path(""), [&](const std::string& dir) {
    std::ifstream file(dir + "/cpu.max");
    double quota = 0, period = 0;
    if (file >> quota >> period && quota > 0 && period > 0) cores = std::min(cores, quota / period);
  });
  each_cgroup("/sys/fs/cgroup/cpu", cgroup_path("cpu"), [&](const std::string& dir) {
    const int64_t quota = read_number(dir + "/cpu.cfs_quota_us"), period = read_number(dir + "/cpu.cfs_period_us");
    if (quota > 0 && period > 0) cores = std::min(cores, static_cast<double>(quota) / static_cast<double>(period));
  });
  return cores;
}

// File pages that the kernel drops first: counted as used, yet they make room.
int64_t reclaimable(const std::string& dir, const char* key) {
  std::ifstream file(dir + "/memory.stat");
  std::string name;
  for (int64_t bytes = 0; file >> name >> bytes;) {
    if (name == key) return bytes;
  }
  return 0;
}

void cut_by_cgroup(const std::string& root, const std::string& path, const char* limit_file, const char* used_file,
                   const char* reclaimable_key, HostMemory& memory) {
  each_cgroup(root, path, [&](const std::string& dir) {
    const int64_t limit = read_number(dir + limit_file), used = read_number(dir + used_file);
    if (limit <= 0 || limit >= memory.total_bytes || used < 0) return;
    memory.total_bytes = limit;
    const int64_t room = limit - used + std::min(used, reclaimable(dir, reclaimable_key));
    memory.free_bytes = std::min(memory.free_bytes, std::max<int64_t>(0, room));
  });
}

#endif

}  // namespace

int usable_cores() {
  int cores = static_cast<int>(std::thread::hardware_concurrency());
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cores = CPU_COUNT(&set);
  cores = static_cast<int>(std::min<double>(cores, std::max(1.0, cgroup_cores())));
#endif
  return std::max(1, cores);
}

HostMemory host_memory() {
  const int64_t page = sysconf(_SC_PAGESIZE);
  HostMemory memory{page * sysconf(_SC_PHYS_PAGES), page * sysconf(_SC_PHYS_PAGES)};
#ifdef __linux__
  std::ifstream file("/proc/meminfo");
  for (std::string key, rest; file >> key; std::getline(file, rest)) {
    if (key != "MemAvailable:") continue;
    int64_t kilobytes = 0;
    if (file >> kilobytes) memory.free_bytes = kilobytes * 1024;
    break;
  }
  cut_by_cgroup("/sys/fs/cgroup", cgroup_path(""), "/memory.max", "/memory.current", "inactive_file", memory);
  cut_by_cgroup("/sys/fs/cgroup/memory", cgroup_path("memory"), "/memory.limit_in_bytes", "/memory.usage_in_bytes",
                "total_inactive_file", memory);
#endif
  return memory;
}

std::string cpu_model() {
#ifdef __linux__
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (line.rfind("model name", 0) == 0 && colon + 2 < line.size()) return line.substr(colon + 2);
  }
#endif
  return "CPU";
}

int64_t l2_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  return std::max<int64_t>(0, sysconf(_SC_LEVEL2_CACHE_SIZE));
#else
  return 0;
#endif
}

void become_compute_thread(const char* name) {
#ifdef __linux__
  pthread_setname_np(pthread_self(), name);
  prctl(PR_SET_TIMERSLACK, 1);
  setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kComputeNice);
#else
  (void)name;
#endif
}

void* map_memory(size_t bytes) {
  const size_t slack = bytes >= kHugePage ? kHugePage : 0;
  void* raw = mmap(nullptr, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  if (slack == 0) return raw;
  // Cut the mapping to a 2 MB boundary in front and to the asked length behind.
  const uintptr_t start = reinterpret_cast<uintptr_t>(raw), aligned = (start + slack - 1) & ~(slack - 1);
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)), end = (aligned + bytes + page - 1) & ~(page - 1);
  const uintptr_t mapped_end = (start + bytes + slack + page - 1) & ~(page - 1);
  if (aligned > start) munmap(raw, aligned - start);
  if (mapped_end > end) munmap(reinterpret_cast<void*>(end), mapped_end - end);
#ifdef MADV_HUGEPAGE
  madvise(reinterpret_cast<void*>(aligned), bytes, MADV_HUGEPAGE);
#endif
  return reinterpret_cast<void*>(aligned);
}

void unmap_memory(void* address, size_t bytes) { munmap(address, bytes); }

}  // namespace kvasir::cpu
