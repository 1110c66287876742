// Checks arguments by name: a dimension is bound by the first tensor that shows it and expected of every later one, so that one
// line per tensor says a whole op's shapes, and a mistake reads "v[head_dim] is 64, expected 128, from k". The first failure is
// kept.
#pragma once
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <initializer_list>

#include "dtype.h"
#include "status.h"

namespace kvasir {

struct Dim {
  const char* name;
  int64_t value = -1;          // -1: not bound yet
  const char* from = nullptr;  // the argument that bound it; none for a fixed size
};

// A dtype shared by several arguments: `allowed` is a bit set over kvasir_dtype.
struct Type {
  uint32_t allowed;
  int32_t value = -1;
  const char* from = nullptr;
};

constexpr uint32_t dtype_bit(int32_t dtype) { return 1u << dtype; }
constexpr uint32_t kComputeDtypes = dtype_bit(KVASIR_F32) | dtype_bit(KVASIR_F16) | dtype_bit(KVASIR_BF16);
constexpr uint32_t kFloatDtypes = kComputeDtypes | dtype_bit(KVASIR_F8E4M3) | dtype_bit(KVASIR_F8E5M2);
constexpr uint32_t kOnlyF32 = dtype_bit(KVASIR_F32), kOnlyI32 = dtype_bit(KVASIR_I32);

inline bool present(const kvasir_tensor& t) { return t.rank > 0; }

inline int64_t element_count(const kvasir_tensor& t) {
  int64_t count = 1;
  for (int i = 0; i < t.rank; ++i) count *= t.shape[i];
  return count;
}

class Match {
 public:
  explicit Match(kvasir_error* err) : err_(err) {}
  kvasir_status status() const { return status_; }
  bool ok() const { return status_ == KVASIR_OK; }

  // Every dtype check and shape check of an absent (rank 0) tensor passes: optional arguments need no branch.
  Match& shape(const char* name, const kvasir_tensor& t, std::initializer_list<Dim*> dims) {
    if (!ok() || !present(t)) return *this;
    if (static_cast<size_t>(t.rank) != dims.size()) return wrong_rank(name, t, dims);
    int axis = 0;
    for (Dim* dim : dims) {
      const int64_t size = t.shape[axis++];
      if (dim->value < 0) {
        dim->value = size;
        dim->from = name;
      } else if (dim->value != size) {
        const bool fixed = dim->from == nullptr;
        return expect(false, "[SHAPE] %s[%s] is %lld, expected %lld%s%s", name, dim->name, as_ll(size), as_ll(dim->value),
                      fixed ? "" : ", from ", fixed ? "" : dim->from);
      }
    }
    return *this;
  }

  Match& dtype(const char* name, const kvasir_tensor& t, Type& type) {
    if (!ok() || !present(t)) return *this;
    if (type.value >= 0) {
      return expect(type.value == t.dtype, "[DTYPE] %s is %s, expected %s, from %s", name, dtype_name(t.dtype),
                    dtype_name(type.value), type.from);
    }
    if ((type.allowed & dtype_bit(t.dtype)) == 0) return wrong_dtype(name, t, type.allowed);
    type.value = t.dtype;
    type.from = name;
    return *this;
  }
  Match& dtype(const char* name, const kvasir_tensor& t, uint32_t allowed) {
    if (ok() && present(t) && (allowed & dtype_bit(t.dtype)) == 0) return wrong_dtype(name, t, allowed);
    return *this;
  }

  // A row-major vector or array without gaps, of one dtype.
  Match& dense(const char* name, const kvasir_tensor& t, uint32_t allowed, std::initializer_list<Dim*> dims) {
    return dtype(name, t, allowed).shape(name, t, dims).contiguous(name, t);
  }
  // Rows may lie apart, but each is contiguous.
  Match& rows(const char* name, const kvasir_tensor& t, Type& type, std::initializer_list<Dim*> dims) {
    return dtype(name, t, type).shape(name, t, dims).contiguous_rows(name, t);
  }

  Match& contiguous(const char* name, const kvasir_tensor& t) {
    if (!ok() || !present(t) || element_count(t) == 0) return *this;
    int64_t expected = 1;
    for (int i = t.rank - 1; i >= 0; --i) {
      if (t.shape[i] != 1 && t.stride[i] != expected) {
        return expect(false,
                      "[SHAPE] %s has stride %lld in dimension %d, expected %lld: it must be contiguous; copy it with cast first",
                      name, as_ll(t.stride[i]), i, as_ll(expected));
      }
      expected *= t.shape[i];
    }
    return *this;
  }
  Match& contiguous_rows(const char* name, const kvasir_tensor& t) {
    if (!ok() || !present(t) || element_count(t) == 0) return *this;
    const int last = t.rank - 1;
    return expect(t.shape[last] == 1 || t.stride[last] == 1,
                  "[SHAPE] %s has stride %lld in its last dimension, expected 1; copy it with cast first", name,
                  as_ll(t.stride[last]));
  }
  Match& aligned_rows(const char* name, const kvasir_tensor& t, int64_t bytes) {
    if (!ok() || !present(t) || element_count(t) == 0) return *this;
    const int64_t element = dtype_bytes(t.dtype);
    expect(reinterpret_cast<uintptr_t>(t.data) % static_cast<uintptr_t>(bytes) == 0,
           "[SHAPE] %s starts %d bytes past a multiple of %lld, expected a view aligned to %lld bytes", name,
           static_cast<int>(reinterpret_cast<uintptr_t>(t.data) % static_cast<uintptr_t>(bytes)), as_ll(bytes), as_ll(bytes));
    for (int i = 0; i + 1 < t.rank; ++i) {
      expect(t.shape[i] == 1 || t.stride[i] * element % bytes == 0,
             "[SHAPE] %s has stride %lld elements of %s in dimension %d, expected a multiple of %lld bytes", name,
             as_ll(t.stride[i]), dtype_name(t.dtype), i, as_ll(bytes));
    }
    return *this;
  }

  // `written` shares no element with `other`. Views of one fused buffer that differ in their columns only are told apart.
  Match& disjoint(const char* written, const kvasir_tensor& w, const char* other, const kvasir_tensor& o) {
    return expect(!overlap(w, o), "%s overlaps %s, which the op reads or writes too; give it memory of its own", written, other);
  }
  // The same, but `written` may be exactly `other` (in place).
  Match& disjoint_or_same(const char* written, const kvasir_tensor& w, const char* other, const kvasir_tensor& o) {
    return expect(!overlap(w, o) || same_view(w, o),
                  "%s overlaps %s in part; give it memory of its own or pass exactly %s to work in place", written, other, other);
  }

  Match& finite(const char* name, float value) {
    return expect(std::isfinite(value), "%s is %g, expected a finite number", name, static_cast<double>(value));
  }

#if defined(__GNUC__)
  __attribute__((format(printf, 3, 4)))
#endif
  Match&
  expect(bool condition, const char* format, ...) {
    if (!ok() || condition) return *this;
    status_ = KVASIR_INVALID_ARGUMENT;
    if (err_ != nullptr) {
      va_list args;
      va_start(args, format);
      vsnprintf(err_->text, sizeof err_->text, format, args);
      va_end(args);
    }
    return *this;
  }

 private:
  static long long as_ll(int64_t x) { return static_cast<long long>(x); }

  Match& wrong_rank(const char* name, const kvasir_tensor& t, std::initializer_list<Dim*> dims) {
    char got[96], want[160];
    size_t g = 0, w = 0;
    for (int i = 0; i < t.rank; ++i) {
      g += static_cast<size_t>(snprintf(got + g, sizeof got - g, "%s%lld", i == 0 ? "" : ", ", as_ll(t.shape[i])));
    }
    for (const Dim* dim : dims) {
      w += static_cast<size_t>(snprintf(want + w, sizeof want - w, "%s%s", w == 0 ? "" : ", ", dim->name));
    }
    return expect(false, "[SHAPE] %s has shape [%s], expected %zu dimension%s [%s]", name, got, dims.size(),
                  dims.size() == 1 ? "" : "s", want);
  }
  Match& wrong_dtype(const char* name, const kvasir_tensor& t, uint32_t allowed) {
    char want[96] = "";
    size_t w = 0;
    for (int32_t d = KVASIR_F32; d <= KVASIR_I8; ++d) {
      if ((allowed & dtype_bit(d)) == 0) continue;
      const bool last = (allowed >> (d + 1)) == 0;
      w += static_cast<size_t>(snprintf(want + w, sizeof want - w, "%s%s", w == 0 ? "" : last ? " or " : ", ", dtype_name(d)));
    }
    return expect(false, "[DTYPE] %s is %s, expected %s", name, dtype_name(t.dtype), want);
  }

  static int64_t extent(const kvasir_tensor& t) {  // elements from the first to past the last
    int64_t last = 0;
    for (int i = 0; i < t.rank; ++i) last += (t.shape[i] - 1) * t.stride[i];
    return last + 1;
  }
  static bool overlap(const kvasir_tensor& a, const kvasir_tensor& b) {
    if (!present(a) || !present(b) || element_count(a) == 0 || element_count(b) == 0) return false;
    const int64_t size_a = dtype_bytes(a.dtype), size_b = dtype_bytes(b.dtype);
    const int64_t begin_a = static_cast<int64_t>(reinterpret_cast<uintptr_t>(a.data)), end_a = begin_a + extent(a) * size_a;
    const int64_t begin_b = static_cast<int64_t>(reinterpret_cast<uintptr_t>(b.data)), end_b = begin_b + extent(b) * size_b;
    if (end_a <= begin_b || end_b <= begin_a) return false;
    const int64_t pitch = a.stride[0] * size_a;
    if (a.rank < 2 || b.rank < 2 || pitch <= 0 || pitch != b.stride[0] * size_b) return true;
    // Same pitch: each covers an interval of columns, the same one in every row unless it wraps.
    const int64_t width_a = end_a - begin_a - (a.shape[0] - 1) * pitch, width_b = end_b - begin_b - (b.shape[0] - 1) * pitch;
    const int64_t shift = (((begin_b - begin_a) % pitch) + pitch) % pitch;
    return !(shift >= width_a && shift + width_b <= pitch);
  }
  static bool same_view(const kvasir_tensor& a, const kvasir_tensor& b) {
    if (a.data != b.data || a.dtype != b.dtype || a.rank != b.rank) return false;
    for (int i = 0; i < a.rank; ++i) {
      if (a.shape[i] != b.shape[i] || (a.shape[i] > 1 && a.stride[i] != b.stride[i])) return false;
    }
    return true;
  }

  kvasir_error* err_;
  kvasir_status status_ = KVASIR_OK;
};

}  // namespace kvasir
