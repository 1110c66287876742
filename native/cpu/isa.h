// The instruction sets that the CPU kernels are compiled for, and the best one this machine runs.
#pragma once

namespace kvasir::cpu {

enum class Isa { portable, avx2, avx512, avx512_bf16, amx };

Isa best_isa();  // by cpuid; KVASIR_ISA=portable|avx2|avx512|avx512_bf16|amx lowers it
const char* isa_name(Isa);

}  // namespace kvasir::cpu
