// CRC-32C (Castagnoli, reflected, as in iSCSI and ext4): the checksum of stored pages. On x86-64 with SSE4.2 and PCLMULQDQ three
// runs of the crc32 instruction go side by side, which hides its latency of three cycles, and carry-less products join them;
// elsewhere eight tables take eight bytes a step. The choice is made at run time, once.
//
//   crc32c(data, bytes)         of a whole range; "123456789" gives 0xe3069283
//   crc32c(data, bytes, crc)    goes on from the crc of what lies before
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#include <nmmintrin.h>
#include <wmmintrin.h>
#define KVASIR_CRC32C_X86 1
#endif

namespace kvasir {

namespace crc32c_detail {

inline constexpr uint32_t kPolynomial = 0x82f63b78;  // x^32 aside; bit i is the coefficient of x^(31 - i)

// One factor x more.
constexpr uint32_t times_x(uint32_t a) { return (a >> 1) ^ ((a & 1) != 0 ? kPolynomial : 0); }

// x^n modulo the polynomial.
constexpr uint32_t power_of_x(unsigned n) {
  uint32_t a = 0x80000000;
  for (unsigned i = 0; i < n; ++i) a = times_x(a);
  return a;
}

using Tables = std::array<std::array<uint32_t, 256>, 8>;

// tables[k][b]: what byte b adds to the register once k more bytes have passed.
constexpr Tables make_tables() {
  Tables tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t a = byte;
    for (int bit = 0; bit < 8; ++bit) a = times_x(a);
    tables[0][byte] = a;
  }
  for (size_t k = 1; k < 8; ++k)
    for (size_t byte = 0; byte < 256; ++byte) tables[k][byte] = (tables[k - 1][byte] >> 8) ^ tables[0][tables[k - 1][byte] & 255];
  return tables;
}
inline constexpr Tables kTables = make_tables();

inline uint64_t word_at(const unsigned char* from) {
  uint64_t word;
  std::memcpy(&word, from, sizeof word);
  return word;
}

// The register after `bytes` more; no inversion at either end.
inline uint32_t portable(uint32_t reg, const unsigned char* from, size_t bytes) {
  for (; bytes >= 8; from += 8, bytes -= 8) {
    uint32_t next = 0;
    for (size_t i = 0; i < 8; ++i) {
      const unsigned byte = from[i] ^ (i < 4 ? reg >> (8 * i) & 255 : 0);
      next ^= kTables[7 - i][byte];
    }
    reg = next;
  }
  for (; bytes > 0; ++from, --bytes) reg = (reg >> 8) ^ kTables[0][(reg ^ *from) & 255];
  return reg;
}

#ifdef KVASIR_CRC32C_X86
// Three adjacent runs of kRun bytes as one. The crc32 instruction multiplies its operand by x^32, and the product of two
// reflected words carries one more x; so multiplying by x^(bits - 33) first moves a register over that many bits.
template <size_t kRun>
__attribute__((target("sse4.2,pclmul"))) inline uint32_t three_runs(uint32_t reg, const unsigned char* from) {
  static_assert(kRun % 8 == 0 && kRun >= 16);
  constexpr long long kOver1 = power_of_x(8 * kRun - 33), kOver2 = power_of_x(16 * kRun - 33);
  uint64_t a = reg, b = 0, c = 0;
  for (size_t i = 0; i + 8 < kRun; i += 8) {
    a = _mm_crc32_u64(a, word_at(from + i));
    b = _mm_crc32_u64(b, word_at(from + kRun + i));
    c = _mm_crc32_u64(c, word_at(from + 2 * kRun + i));
  }
  a = _mm_crc32_u64(a, word_at(from + kRun - 8));
  b = _mm_crc32_u64(b, word_at(from + 2 * kRun - 8));
  const __m128i moved_a = _mm_clmulepi64_si128(_mm_cvtsi64_si128(static_cast<long long>(a)), _mm_cvtsi64_si128(kOver2), 0);
  const __m128i moved_b = _mm_clmulepi64_si128(_mm_cvtsi64_si128(static_cast<long long>(b)), _mm_cvtsi64_si128(kOver1), 0);
  const uint64_t moved = static_cast<uint64_t>(_mm_cvtsi128_si64(_mm_xor_si128(moved_a, moved_b)));
  // `moved` still lacks its reduction, which the last word's instruction does, too; c passes over that word by itself.
  c = _mm_crc32_u64(c, word_at(from + 3 * kRun - 8));
  return static_cast<uint32_t>(c ^ _mm_crc32_u64(0, moved));
}

__attribute__((target("sse4.2,pclmul"))) inline uint32_t hardware(uint32_t reg, const unsigned char* from, size_t bytes) {
  constexpr size_t kLong = 4096, kShort = 256;
  for (; bytes >= 3 * kLong; from += 3 * kLong, bytes -= 3 * kLong) reg = three_runs<kLong>(reg, from);
  for (; bytes >= 3 * kShort; from += 3 * kShort, bytes -= 3 * kShort) reg = three_runs<kShort>(reg, from);
  for (; bytes >= 8; from += 8, bytes -= 8) reg = static_cast<uint32_t>(_mm_crc32_u64(reg, word_at(from)));
  for (; bytes > 0; ++from, --bytes) reg = _mm_crc32_u8(reg, *from);
  return reg;
}
#endif

inline bool has_hardware() {
#ifdef KVASIR_CRC32C_X86
  static const bool has = [] {
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
  }();
  return has;
#else
  return false;
#endif
}

}  // namespace crc32c_detail

inline uint32_t crc32c(const void* data, size_t bytes, uint32_t crc = 0) {
  const auto* from = static_cast<const unsigned char*>(data);
#ifdef KVASIR_CRC32C_X86
  if (crc32c_detail::has_hardware()) return ~crc32c_detail::hardware(~crc, from, bytes);
#endif
  return ~crc32c_detail::portable(~crc, from, bytes);
}

}  // namespace kvasir
