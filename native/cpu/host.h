// What the CPU backend asks of the operating system: cores and memory that this process may use, thread priority, large pages.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace kvasir::cpu {

// Cores in the affinity mask, cut by the cgroup's CPU quota; at least 1.
int usable_cores();

struct HostMemory {
  int64_t free_bytes, total_bytes;  // the machine's or the cgroup's, whichever is smaller
};
HostMemory host_memory();

std::string cpu_model();
int64_t l2_bytes();

// Names the calling thread, lets it yield to interactive threads (the JavaScript thread above all), and makes its sleeps exact.
void become_compute_thread(const char* name);

// Page-aligned and untouched, so that the thread that first writes a page places it; 2 MB pages for large blocks. nullptr: no
// memory.
void* map_memory(size_t bytes);
void unmap_memory(void* address, size_t bytes);

inline void cpu_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace kvasir::cpu
