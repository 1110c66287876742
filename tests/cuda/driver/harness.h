// What the driver's checks share: a device opened through the ABI, arrays on it with their values on the host, and a count of
// failures. Every array has an allocation of its own, without slack, so that compute-sanitizer sees an access past its end;
// outputs are poisoned.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../../../native/abi/kvasir_abi.h"
#include "../../../native/core/dtype.h"

namespace driver {

inline std::mt19937 generator(20240607);
inline int failures = 0, checks = 0;

inline void expect(bool ok, const std::string& what) {
  ++checks;
  if (ok) return;
  ++failures;
  printf("FAILED  %s\n", what.c_str());
}

inline float round_to(int32_t dtype, float x) {
  using namespace kvasir;
  return dtype == KVASIR_F16 ? f16_to_float(float_to_f16(x)) : dtype == KVASIR_BF16 ? bf16_to_float(float_to_bf16(x)) : x;
}
inline std::vector<char> to_bits(int32_t dtype, const std::vector<float>& values) {
  using namespace kvasir;
  std::vector<char> bits(values.size() * static_cast<size_t>(dtype_bytes(dtype)));
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t half = dtype == KVASIR_F16 ? float_to_f16(values[i]) : float_to_bf16(values[i]);
    if (dtype == KVASIR_F32)
      memcpy(&bits[4 * i], &values[i], 4);
    else
      memcpy(&bits[2 * i], &half, 2);
  }
  return bits;
}
inline std::vector<float> from_bits(int32_t dtype, const std::vector<char>& bits) {
  using namespace kvasir;
  std::vector<float> values(bits.size() / static_cast<size_t>(dtype_bytes(dtype)));
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t half;
    if (dtype == KVASIR_F32) {
      memcpy(&values[i], &bits[4 * i], 4);
    } else {
      memcpy(&half, &bits[2 * i], 2);
      values[i] = dtype == KVASIR_F16 ? f16_to_float(half) : bf16_to_float(half);
    }
  }
  return values;
}

// Contiguous on the device, or with rows of the first dimension apart by `pitch` elements; `values` are those of the whole
// allocation.
struct Array {
  kvasir_tensor t{};
  std::vector<float> values;
  const float& at(int64_t a, int64_t b = 0, int64_t c = 0) const {
    return values[static_cast<size_t>(a * t.stride[0] + (t.rank > 1 ? b * t.stride[1] : 0) + (t.rank > 2 ? c * t.stride[2] : 0))];
  }
};

class Gpu {
 public:
  const kvasir_backend* backend = nullptr;
  kvasir_device* device = nullptr;
  kvasir_stream* stream = nullptr;

  void ok(kvasir_status status, const kvasir_error& err, const char* doing) {
    if (status == KVASIR_OK) return;
    printf("FAILED  %s: status %d: %s\n", doing, static_cast<int>(status), err.text);
    exit(1);
  }
  void* allocate(size_t bytes) {
    kvasir_error err{};
    void* data = nullptr;
    ok(backend->alloc(device, bytes == 0 ? 16 : bytes, &data, &err), err, "alloc");
    owned_.push_back(data);
    return data;
  }
  void release() {
    for (void* data : owned_) backend->free(device, data);
    owned_.clear();
  }
  void finish() {
    kvasir_error err{};
    ok(backend->stream_synchronize(stream, &err), err, "synchronize");
  }
  void write(void* dst, const void* source, size_t bytes) {
    kvasir_error err{};
    ok(backend->copy_in(stream, dst, source, bytes, 1, &err), err, "copy_in");
    finish();
  }
  std::vector<char> read(const void* source, size_t bytes) {
    std::vector<char> bits(bytes);
    kvasir_error err{};
    ok(backend->copy_out(stream, bits.data(), source, bytes, &err), err, "copy_out");
    finish();
    return bits;
  }

  Array array(int32_t dtype, std::vector<int64_t> shape, const std::vector<float>& values, int64_t pitch = 0) {
    Array a;
    a.t.dtype = dtype;
    a.t.rank = static_cast<int32_t>(shape.size());
    int64_t stride = 1;
    for (int i = a.t.rank - 1; i >= 0; --i) {
      a.t.shape[i] = shape[static_cast<size_t>(i)];
      a.t.stride[i] = i == 0 && pitch > 0 && a.t.rank > 1 ? pitch : stride;
      stride *= a.t.shape[i];
    }
    a.values = values;
    const std::vector<char> bits = to_bits(dtype, values);
    a.t.data = allocate(bits.size());
    if (!bits.empty()) write(a.t.data, bits.data(), bits.size());
    return a;
  }
  Array random(int32_t dtype, std::vector<int64_t> shape, float scale = 1.f, int64_t pitch = 0) {
    std::normal_distribution<float> normal(0.f, scale);
    int64_t row = 1;
    for (size_t i = 1; i < shape.size(); ++i) row *= shape[i];
    std::vector<float> values(static_cast<size_t>(shape[0] * (pitch > 0 ? pitch : row)));
    for (float& v : values) v = round_to(dtype, normal(generator));
    return array(dtype, shape, values, pitch);
  }
  Array poisoned(int32_t dtype, std::vector<int64_t> shape, int64_t pitch = 0) {
    int64_t row = 1;
    for (size_t i = 1; i < shape.size(); ++i) row *= shape[i];
    return array(dtype, shape, std::vector<float>(static_cast<size_t>(shape[0] * (pitch > 0 ? pitch : row)), NAN), pitch);
  }
  kvasir_tensor ints(const std::vector<int>& values, int64_t rows = -1) {
    kvasir_tensor t{};
    t.dtype = KVASIR_I32;
    t.rank = rows < 0 ? 1 : 2;
    t.shape[0] = rows < 0 ? static_cast<int64_t>(values.size()) : rows;
    if (rows >= 0) t.shape[1] = static_cast<int64_t>(values.size()) / rows;
    t.stride[0] = rows < 0 ? 1 : t.shape[1];
    t.stride[1] = 1;
    t.data = allocate(values.size() * 4);
    if (!values.empty()) write(t.data, values.data(), values.size() * 4);
    return t;
  }
  void fetch(Array& a) {
    a.values = from_bits(a.t.dtype, read(a.t.data, a.values.size() * static_cast<size_t>(kvasir::dtype_bytes(a.t.dtype))));
  }
  std::vector<int> fetch_ints(const kvasir_tensor& t) {
    const std::vector<char> bits = read(t.data, static_cast<size_t>(t.shape[0] * (t.rank > 1 ? t.shape[1] : 1)) * 4);
    std::vector<int> values(bits.size() / 4);
    memcpy(values.data(), bits.data(), bits.size());
    return values;
  }

  template <class Args>
  void run(kvasir_op_id id, const Args& args) {
    const kvasir_op& op = backend->ops[id];
    const size_t bytes = op.workspace != nullptr ? op.workspace(device, &args) : 0;
    void* workspace = bytes > 0 ? allocate(bytes) : nullptr;
    kvasir_error err{};
    if (bytes > 0) ok(backend->fill(stream, workspace, 0xff, bytes, &err), err, "fill");
    ok(op.enqueue(stream, &args, workspace, bytes, &err), err, op.name);
    finish();
  }

 private:
  std::vector<void*> owned_;
};

// got against a float64 result: |got - want| <= absolute + relative * |want|.
class Compare {
 public:
  Compare(std::string what, double absolute, double relative)
      : what_(std::move(what)), absolute_(absolute), relative_(relative) {}
  ~Compare() {
    char text[160];
    snprintf(text, sizeof text, " (worst: got %g, expected %g, %.2f of the tolerance)", got_, want_, worst_);
    expect(worst_ <= 1, what_ + text);
  }
  void operator()(double got, double want) {
    if (got == want) return;
    double ratio = std::fabs(got - want) / (absolute_ + relative_ * std::fabs(want));
    if (!(ratio >= 0)) ratio = INFINITY;
    if (ratio <= worst_) return;
    worst_ = ratio, got_ = got, want_ = want;
  }

 private:
  std::string what_;
  double absolute_, relative_, worst_ = 0, got_ = 0, want_ = 0;
};

// Half a unit in the last place, with room for f32 arithmetic.
inline double relative_error(int32_t dtype) { return dtype == KVASIR_BF16 ? 0.0042 : dtype == KVASIR_F16 ? 0.0006 : 2e-5; }
inline std::string name_of(int32_t dtype) { return kvasir::dtype_name(dtype); }

void check_row_ops(Gpu&);
void check_linear(Gpu&);
void check_sampling(Gpu&);
void check_page_copy(Gpu&);
void check_paging(Gpu&);
void check_attention(Gpu&);
void check_runtime(Gpu&);
void lose_device(Gpu&);

}  // namespace driver
