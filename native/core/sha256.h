// SHA-256 (FIPS 180-4) over whole blocks of 64 bytes: with the SHA extensions of x86-64 where the processor has them, in plain
// C++ elsewhere. The choice is made at run time, once; KVASIR_ISA=portable forces the plain one.
//
//   sha256_pad(message, bytes)             writes the padding behind a message; its buffer holds sha256_padded_bytes(bytes)
//   sha256_compress(state, blocks, count)  goes on from a state; the first one is kSha256Initial
//   sha256_put(state, bytes, out)          the first `bytes` of the digest, big endian as the standard has it
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>
#define KVASIR_SHA256_X86 1
#endif

namespace kvasir {

using Sha256State = std::array<uint32_t, 8>;

inline constexpr size_t kSha256Block = 64;
inline constexpr Sha256State kSha256Initial = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                               0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

// One byte 0x80 and the length in bits follow the message.
constexpr size_t sha256_padded_bytes(size_t bytes) { return (bytes + 9 + kSha256Block - 1) / kSha256Block * kSha256Block; }

inline void sha256_pad(uint8_t* message, size_t bytes) {
  const size_t padded = sha256_padded_bytes(bytes);
  std::memset(message + bytes, 0, padded - bytes);
  message[bytes] = 0x80;
  for (size_t i = 0; i < 8; ++i) message[padded - 1 - i] = static_cast<uint8_t>(uint64_t{8} * bytes >> (8 * i));
}

inline void sha256_put(const Sha256State& state, size_t bytes, uint8_t* out) {
  for (size_t i = 0; i < bytes; ++i) out[i] = static_cast<uint8_t>(state[i / 4] >> (24 - 8 * (i % 4)));
}

namespace sha256_detail {

alignas(16) inline constexpr uint32_t kRoundConstants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

inline uint32_t rotate(uint32_t word, int by) { return word >> by | word << (32 - by); }

inline void portable(Sha256State& state, const uint8_t* block, size_t count) {
  for (; count > 0; --count, block += kSha256Block) {
    uint32_t w[64];
    for (int t = 0; t < 16; ++t) {
      const uint8_t* from = block + 4 * t;
      w[t] = uint32_t{from[0]} << 24 | uint32_t{from[1]} << 16 | uint32_t{from[2]} << 8 | from[3];
    }
    for (int t = 16; t < 64; ++t) {
      const uint32_t low = w[t - 15], high = w[t - 2];
      w[t] = w[t - 16] + (rotate(low, 7) ^ rotate(low, 18) ^ low >> 3) + w[t - 7] +
             (rotate(high, 17) ^ rotate(high, 19) ^ high >> 10);
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (int t = 0; t < 64; ++t) {
      const uint32_t t1 = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + kRoundConstants[t] + w[t];
      const uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    const Sha256State add = {a, b, c, d, e, f, g, h};
    for (size_t i = 0; i < 8; ++i) state[i] += add[i];
  }
}

#ifdef KVASIR_SHA256_X86
// The instructions keep the state as two words of four: a b e f and c d g h, high to low; each does two rounds.
__attribute__((target("sha,sse4.1,ssse3"))) inline void extensions(Sha256State& state, const uint8_t* block, size_t count) {
  const __m128i byte_swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  const __m128i* const constants = reinterpret_cast<const __m128i*>(kRoundConstants);
  __m128i* const words = reinterpret_cast<__m128i*>(state.data());
  const __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128(words), 0xb1);
  const __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128(words + 1), 0x1b);
  __m128i abef = _mm_alignr_epi8(cdab, efgh, 8), cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
  for (; count > 0; --count, block += kSha256Block) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i w[4];  // the latest 16 words of the schedule
    for (int i = 0; i < 4; ++i) w[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block) + i), byte_swap);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      const __m128i sum = _mm_add_epi32(w[i % 4], _mm_load_si128(constants + i));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
      if (i >= 12) continue;
      const __m128i &w1 = w[(i + 1) % 4], &w2 = w[(i + 2) % 4], &w3 = w[(i + 3) % 4];
      w[i % 4] = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(w[i % 4], w1), _mm_alignr_epi8(w3, w2, 4)), w3);
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
  _mm_storeu_si128(words, _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128(words + 1, _mm_alignr_epi8(dchg, feba, 8));
}
#endif

inline bool has_extensions() {
#ifdef KVASIR_SHA256_X86
  static const bool has = [] {
    constexpr unsigned kSha = 1u << 29;  // CPUID leaf 7, ebx
    unsigned eax, ebx, ecx, edx;
    const char* asked = std::getenv("KVASIR_ISA");
    if (asked != nullptr && std::strcmp(asked, "portable") == 0) return false;
    __builtin_cpu_init();
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & kSha) != 0 && __builtin_cpu_supports("sse4.1") &&
           __builtin_cpu_supports("ssse3");
  }();
  return has;
#else
  return false;
#endif
}

}  // namespace sha256_detail

// What this process uses: "sha_ni" or "portable".
inline const char* sha256_isa() { return sha256_detail::has_extensions() ? "sha_ni" : "portable"; }

inline void sha256_compress(Sha256State& state, const uint8_t* blocks, size_t count) {
#ifdef KVASIR_SHA256_X86
  if (sha256_detail::has_extensions()) return sha256_detail::extensions(state, blocks, count);
#endif
  sha256_detail::portable(state, blocks, count);
}

}  // namespace kvasir
