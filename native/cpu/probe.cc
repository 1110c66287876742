// The two ceilings that benches divide by, measured with the same pool and instruction sets as the kernels: streaming reads of
// memory, and f32 multiply-adds from registers.
#include <atomic>
#include <cstring>

#include "../core/dtype.h"
#include "ops.h"

namespace kvasir::cpu {
namespace {

constexpr int kChains = 12;  // independent accumulators: latency 4 x 2 units, with room
constexpr int64_t kRound = int64_t{1} << 20;

// One vector width's loops. Compiled per instruction set by the target attribute of the functions that instantiate the macro:
// GCC's vector extensions pick the registers, and contraction makes multiply-add one instruction where the set has it.
#define KVASIR_PROBE(NAME, TARGET, BYTES)                                                        \
  TARGET void fma_##NAME(int iterations, float* sink) {                                          \
    typedef float Vector __attribute__((vector_size(BYTES)));                                    \
    Vector acc[kChains], a, b;                                                                   \
    for (int lane = 0; lane < BYTES / 4; ++lane) a[lane] = 0.999f + *sink, b[lane] = 1e-3f;      \
    for (int c = 0; c < kChains; ++c) acc[c] = a + static_cast<float>(c);                        \
    for (int64_t i = 0, n = iterations * (kRound / kChains); i < n; ++i) {                       \
      _Pragma("GCC unroll 12") for (int c = 0; c < kChains; ++c) acc[c] = acc[c] * a + b;        \
    }                                                                                            \
    for (int c = 1; c < kChains; ++c) acc[0] += acc[c];                                          \
    *sink = acc[0][0];                                                                           \
  }                                                                                              \
  TARGET uint32_t read_##NAME(const char* p, int64_t bytes) {                                    \
    typedef uint32_t Vector __attribute__((vector_size(BYTES), may_alias, aligned(4)));          \
    Vector acc[8] = {};                                                                          \
    int64_t i = 0;                                                                               \
    for (; i + 8 * BYTES <= bytes; i += 8 * BYTES) {                                             \
      __builtin_prefetch(p + i + 4096);                                                          \
      __builtin_prefetch(p + i + 4096 + 4 * BYTES);                                              \
      for (int c = 0; c < 8; ++c) acc[c] ^= *reinterpret_cast<const Vector*>(p + i + c * BYTES); \
    }                                                                                            \
    for (int c = 1; c < 8; ++c) acc[0] ^= acc[c];                                                \
    uint32_t folded = 0;                                                                         \
    for (int lane = 0; lane < BYTES / 4; ++lane) folded ^= acc[0][lane];                         \
    for (; i + 4 <= bytes; i += 4) {                                                             \
      uint32_t word;                                                                             \
      memcpy(&word, p + i, 4);                                                                   \
      folded ^= word;                                                                            \
    }                                                                                            \
    return folded;                                                                               \
  }

#if defined(__x86_64__)
KVASIR_PROBE(wide, __attribute__((target("avx512f,avx512vl,fma"))), 64)
KVASIR_PROBE(avx2, __attribute__((target("avx2,fma"))), 32)
#endif
KVASIR_PROBE(portable, , 16)
#undef KVASIR_PROBE

struct Probe {
  void (*fma)(int, float*);
  uint32_t (*read)(const char*, int64_t);
  int lanes;
};

Probe probe_for(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::avx512) return {fma_wide, read_wide, 16};
  if (isa == Isa::avx2) return {fma_avx2, read_avx2, 8};
#endif
  return {fma_portable, read_portable, 4};
}

}  // namespace

void probe_read(Context& context, const kvasir_probe_read_args& args) {
  int64_t bytes = dtype_bytes(args.x.dtype);
  for (int d = 0; d < args.x.rank; ++d) bytes *= args.x.shape[d];
  const int64_t slice = int64_t{4} << 20;
  const Probe probe = probe_for(context.isa);
  std::atomic<uint32_t> folded{0};
  context.pool.parallel_for((bytes + slice - 1) / slice, [&](int64_t index, int) {
    const int64_t begin = index * slice, end = begin + slice < bytes ? begin + slice : bytes;
    folded ^= probe.read(static_cast<const char*>(args.x.data) + begin, end - begin);
  });
  *static_cast<int32_t*>(args.out.data) = static_cast<int32_t>(folded.load());
}

void probe_fma(Context& context, const kvasir_probe_fma_args& args) {
  const Probe probe = probe_for(context.isa);
  const int threads = context.pool.size();
  context.pool.parallel_for(threads, [&](int64_t, int) {
    float sink = 0;
    probe.fma(args.iterations, &sink);
    static_cast<volatile float&>(sink) = sink;
  });
  *static_cast<int32_t*>(args.out.data) = threads * args.iterations * probe.lanes * 2;
}

}  // namespace kvasir::cpu
