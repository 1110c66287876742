// Checks native/core/crc32c.h and native/core/page_envelope.h: known answers, both ways of summing against a bit-by-bit one, and
// that a change of any bit of a header, or of what is expected of it, is found and named.
//
//   g++ -std=c++20 -I native/core tests/native/page_envelope_test.cc -o page_envelope_test && ./page_envelope_test
#include "page_envelope.h"

#include <algorithm>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

namespace {

using namespace kvasir;

int64_t checks = 0, failures = 0;

void expect(bool ok, const char* law, int64_t a = 0, int64_t b = 0) {
  ++checks;
  if (ok || ++failures > 20) return;
  printf("FAILED  %s: %lld, %lld\n", law, static_cast<long long>(a), static_cast<long long>(b));
}

// The definition: a shift register, a bit at a time.
uint32_t slow_crc(const uint8_t* from, size_t bytes, uint32_t crc) {
  crc = ~crc;
  for (size_t i = 0; i < bytes; ++i) {
    crc ^= from[i];
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) * 0x82f63b78u);
  }
  return ~crc;
}

void check_crc(std::mt19937& random) {
  expect(crc32c("123456789", 9) == 0xe3069283, "the check value of CRC-32C");
  const std::vector<uint8_t> zeros(32), ones(32, 0xff);
  expect(crc32c(zeros.data(), 32) == 0x8a9136aa, "32 zeros, RFC 3720 B.4");
  expect(crc32c(ones.data(), 32) == 0x62a8ab43, "32 ones, RFC 3720 B.4");
  std::vector<uint8_t> bytes(40000);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  for (size_t length = 0; length < bytes.size() - 16; length += length < 1700 ? 1 : 997) {
    const size_t from = random() % 16;
    const uint32_t seed = random() % 2 == 0 ? 0 : static_cast<uint32_t>(random());
    const uint32_t expected = slow_crc(bytes.data() + from, length, seed);
    expect(crc32c(bytes.data() + from, length, seed) == expected, "the way of this machine", static_cast<int64_t>(length));
    expect(~crc32c_detail::portable(~seed, bytes.data() + from, length) == expected, "the way of tables",
           static_cast<int64_t>(length));
    const size_t cut = length == 0 ? 0 : random() % length;
    expect(crc32c(bytes.data() + from + cut, length - cut, crc32c(bytes.data() + from, cut, seed)) == expected,
           "a checksum goes on from another", static_cast<int64_t>(length), static_cast<int64_t>(cut));
  }
}

struct Page {
  explicit Page(uint32_t page_size, uint32_t held, std::mt19937& random) : tokens(page_size, -1), payload(1 + random() % 5000) {
    for (auto* digest : {&fingerprint, &key, &parent})
      for (uint8_t& byte : *digest) byte = static_cast<uint8_t>(random());
    for (uint32_t i = 0; i < held; ++i) tokens[i] = static_cast<int32_t>(random() >> 1);
    for (uint8_t& byte : payload) byte = static_cast<uint8_t>(random());
    group = random() % 4;
    header.assign(envelope_bytes(page_size), 0xcd);
    seal_envelope(envelope(), crc32c(payload.data(), payload.size()), header.data());
  }
  PageEnvelope envelope() const {
    PageEnvelope out;
    out.fingerprint = fingerprint.data();
    out.key = key.data();
    out.parent = parent.data();
    out.tokens = tokens.data();
    out.page_size = static_cast<uint32_t>(tokens.size());
    out.group = group;
    out.payload_bytes = payload.size();
    return out;
  }
  EnvelopeField check() const { return check_page(header.data(), header.size(), payload.data(), envelope()); }

  std::array<uint8_t, 16> fingerprint{}, key{}, parent{};
  std::vector<int32_t> tokens;
  std::vector<uint8_t> payload, header;
  uint32_t group = 0;
};

EnvelopeField field_at(size_t at, size_t header_bytes, size_t tokens_end) {
  using F = EnvelopeField;
  constexpr struct {
    size_t end;
    F field;
  } kFields[] = {{8, F::magic},          {12, F::version},    {16, F::header_bytes}, {32, F::fingerprint},
                 {48, F::key},           {64, F::parent},     {68, F::page_size},    {72, F::token_count},
                 {80, F::payload_bytes}, {84, F::header_crc}, {88, F::group}};
  for (const auto& [end, field] : kFields)
    if (at < end) return field;
  return at < tokens_end ? F::tokens : at < header_bytes ? F::header_crc : F::none;
}

void check_flips(Page page) {
  const size_t bytes = page.header.size(), tokens_end = kEnvelopeTokensAt + 4 * page.tokens.size();
  for (size_t bit = 0; bit < 8 * bytes; ++bit) {
    page.header[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    expect(page.check() == field_at(bit / 8, bytes, tokens_end), "a flipped bit of the header is found and named",
           static_cast<int64_t>(bit), static_cast<int64_t>(page.check()));
    page.header[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
  }
  for (size_t bit = 0; bit < 8 * page.payload.size(); bit += 61) {
    page.payload[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    expect(page.check() == EnvelopeField::payload_crc, "a flipped bit of the payload is found", static_cast<int64_t>(bit));
    page.payload[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
  }
  expect(page.check() == EnvelopeField::none, "the page as it was is whole");
}

void check_expectations(const Page& page, std::mt19937& random) {
  using F = EnvelopeField;
  const auto differs = [&](F field, const PageEnvelope& other) {
    expect(check_envelope(page.header.data(), page.header.size(), other) == field, "what differs is named",
           static_cast<int64_t>(field));
  };
  std::array<uint8_t, 16> digest{};
  for (uint8_t& byte : digest) byte = static_cast<uint8_t>(random());
  PageEnvelope other = page.envelope();
  other.fingerprint = digest.data(), differs(F::fingerprint, other), other = page.envelope();
  other.key = digest.data(), differs(F::key, other), other = page.envelope();
  other.parent = digest.data(), differs(F::parent, other), other = page.envelope();
  other.payload_bytes += 1, differs(F::payload_bytes, other), other = page.envelope();
  other.group += 1, differs(F::group, other), other = page.envelope();
  std::vector<int32_t> tokens = page.tokens;
  other.tokens = tokens.data();
  if (const uint32_t held = token_count(page.tokens.data(), other.page_size); held > 0) {
    tokens[held - 1] ^= 1, differs(F::tokens, other);
    tokens[held - 1] = -1, differs(F::token_count, other);
  }
  other = page.envelope();
  expect(check_envelope(page.header.data(), page.header.size() - 1, other) == F::length, "a header cut short is found");
}

}  // namespace

int main() {
  std::mt19937 random(2405);
  check_crc(random);
  for (uint32_t page_size : {1u, 3u, 16u, 64u, 255u, 256u}) {
    expect(envelope_bytes(page_size) % 64 == 0 && envelope_bytes(page_size) <= kMostEnvelopeBytes, "a header's size", page_size);
    for (uint32_t held : {0u, page_size / 2, page_size}) {
      const Page page(page_size, held, random);
      expect(token_count(page.tokens.data(), page_size) == held, "tokens are counted up to the padding", page_size, held);
      check_flips(page);
      check_expectations(page, random);
    }
  }
  for (uint32_t field = 0; field <= static_cast<uint32_t>(EnvelopeField::payload_crc); ++field)
    expect(std::string(envelope_field_name(static_cast<EnvelopeField>(field))).size() > 2, "every field has a name", field);
  printf("%lld checks, %lld failed\n", static_cast<long long>(checks), static_cast<long long>(failures));
  return failures == 0 ? 0 : 1;
}
