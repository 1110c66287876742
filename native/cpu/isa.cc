#include "isa.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace kvasir::cpu {

namespace {

Isa detected_isa() {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  // F, BW, VL and DQ come together on every server core since Skylake; the kernels use all four.
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) return Isa::avx512_bf16;
  if (avx512) return Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::portable;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512_bf16: return "avx512_bf16";
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    case Isa::portable: break;
  }
  return "portable";
}

Isa best_isa() {
  const Isa best = detected_isa();
  const char* asked = std::getenv("KVASIR_ISA");
  if (asked == nullptr) return best;
  for (const Isa isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512_bf16}) {
    if (std::strcmp(asked, isa_name(isa)) == 0) return isa < best ? isa : best;
  }
  return best;
}

}  // namespace kvasir::cpu
