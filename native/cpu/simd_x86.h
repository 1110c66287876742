// Whether this build compiles the x86 instruction sets beside the portable one. Target regions are GCC's; other compilers get the
// portable set. immintrin.h comes in before any target region is open.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define KVASIR_SIMD_X86 1
// GCC 12 takes the intrinsics' deliberately undefined pass-through operands for mistakes.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#define KVASIR_SIMD_X86 0
#endif
