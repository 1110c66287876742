// rope and append against host loops in float64, and merge of partial results.
#include "harness.h"

namespace driver {

namespace {

// Element i of a head after rotation; `half` pairs.
double rotated(const Array& x, int64_t t, int64_t h, int64_t i, int64_t half, const Array& frequency, int position,
               double scale) {
  if (i >= 2 * half) return x.at(t, h, i);
  const int64_t pair = i % half;
  const double angle = static_cast<float>(position) * frequency.at(pair), a = x.at(t, h, pair), b = x.at(t, h, pair + half);
  return scale * (i < half ? a * std::cos(angle) - b * std::sin(angle) : b * std::cos(angle) + a * std::sin(angle));
}

Array frequencies(Gpu& gpu, int64_t half) {
  std::vector<float> values;
  for (int64_t i = 0; i < half; ++i) values.push_back(std::pow(10000.f, -static_cast<float>(i) / static_cast<float>(half)));
  return gpu.array(KVASIR_F32, {half}, values);
}

void rope(Gpu& gpu, int32_t dtype, int64_t heads, int64_t dim, int64_t half, int64_t pitch) {
  const std::vector<int> positions = {0, 1, 77, 123456};
  Array x = gpu.random(dtype, {4, heads, dim}, 1.f, pitch), before = x, frequency = frequencies(gpu, half);
  kvasir_rope_args args{x.t, gpu.ints(positions), frequency.t, 1.25f};
  gpu.run(KVASIR_OP_ROPE, args);
  gpu.fetch(x);
  Compare compare("rope " + name_of(dtype) + " head_dim " + std::to_string(dim) + " pairs " + std::to_string(half), 4e-6,
                  relative_error(dtype));
  for (int64_t t = 0; t < 4; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < dim; ++i)
        compare(x.at(t, h, i), rotated(before, t, h, i, half, frequency, positions[static_cast<size_t>(t)], 1.25));
    }
  }
  gpu.release();
}

void append(Gpu& gpu, int32_t dtype, int64_t kv_heads, int64_t qo_heads, int64_t dim, int64_t half, bool store_rotated) {
  const int page_size = 16, slots = 5;
  const int64_t page_elements = kv_heads * 2 * page_size * dim + 64, total = 6;  // 64: another layer's part
  const auto item = static_cast<int>(kvasir::dtype_bytes(dtype));
  const std::vector<int> positions = {0, 5, 1000, 31, 7, 9}, mapping = {0, 79, 17, -1, 80, 33};  // 80 is outside of the pool
  std::vector<int> offsets;
  for (int h = 0; h < kv_heads; ++h) {
    for (int kv = 0; kv < 2; ++kv) offsets.push_back((64 + (h * 2 + kv) * page_size * static_cast<int>(dim)) * item);
  }
  Array k = gpu.random(dtype, {total, kv_heads, dim}), v = gpu.random(dtype, {total, kv_heads, dim}, 1.f, kv_heads * dim + 8);
  Array q = gpu.random(dtype, {total, qo_heads, dim}), q_before = q, pages = gpu.poisoned(dtype, {slots, page_elements}),
        frequency = frequencies(gpu, half > 0 ? half : 1);
  kvasir_append_args args{};
  args.k = k.t, args.v = v.t, args.pages = pages.t, args.positions = gpu.ints(positions), args.slot_mapping = gpu.ints(mapping);
  args.page_offsets = gpu.ints(offsets, kv_heads), args.rope_scale = 1.f, args.page_size = page_size,
  args.store_rotated = store_rotated;
  if (half > 0) args.q = q.t, args.inv_freq = frequency.t;
  gpu.run(KVASIR_OP_APPEND, args);
  gpu.fetch(pages), gpu.fetch(q);
  const std::string of = name_of(dtype) + " head_dim " + std::to_string(dim) + " pairs " + std::to_string(half) +
                         (store_rotated ? "" : " stored before rotation");
  size_t written = 0;
  {
    Compare compare("append " + of, 4e-6, relative_error(dtype));
    for (size_t t = 0; t < total; ++t) {
      const int64_t token = static_cast<int64_t>(t);
      for (int64_t h = 0; half > 0 && h < qo_heads; ++h) {
        for (int64_t i = 0; i < dim; ++i)
          compare(q.at(token, h, i), rotated(q_before, token, h, i, half, frequency, positions[t], 1));
      }
      if (mapping[t] < 0 || mapping[t] >= slots * page_size) continue;
      for (int64_t h = 0; h < kv_heads; ++h) {
        for (int64_t i = 0; i < dim; ++i) {
          const auto stored = [&](int kv) {
            return pages.at(mapping[t] / page_size,
                            offsets[static_cast<size_t>(2 * h + kv)] / item + mapping[t] % page_size * dim + i);
          };
          compare(stored(0), rotated(k, token, h, i, store_rotated ? half : 0, frequency, positions[t], 1));
          compare(stored(1), v.at(token, h, i));
          written += 2;
        }
      }
    }
  }
  size_t changed = 0;
  for (const float value : pages.values) changed += !std::isnan(value);
  expect(changed == written, "append leaves the rest of the pages alone, " + of);
  gpu.release();
}

void merge(Gpu& gpu, int32_t parts_dtype, int32_t dtype, int64_t parts, int64_t dim) {
  const int64_t tokens = 5, heads = 3;
  std::vector<int64_t> shape = {parts, tokens, heads, dim};
  Array flat = gpu.random(parts_dtype, {parts, tokens * heads * dim}), lse = gpu.random(KVASIR_F32, {parts, tokens, heads}, 4.f);
  for (int64_t p = 0; p < parts; ++p) {  // token 0 is empty in all parts, token 1 in one; what an empty part holds is garbage
    for (int64_t h = 0; h < heads; ++h) {
      lse.values[static_cast<size_t>(p * tokens * heads + h)] = -INFINITY;
      if (p == 0) lse.values[static_cast<size_t>(heads + h)] = -INFINITY;
      for (int64_t i = 0; i < dim; ++i) {
        flat.values[static_cast<size_t>(p * tokens * heads * dim + h * dim + i)] = NAN;
        if (p == 0) flat.values[static_cast<size_t>((heads + h) * dim + i)] = NAN;
      }
    }
  }
  Array source = gpu.array(parts_dtype, shape, flat.values),
        source_lse = gpu.array(KVASIR_F32, {parts, tokens, heads}, lse.values);
  Array out = gpu.poisoned(dtype, {tokens, heads, dim}), out_lse = gpu.poisoned(KVASIR_F32, {tokens, heads});
  kvasir_merge_args args{source.t, source_lse.t, out.t, out_lse.t};
  gpu.run(KVASIR_OP_MERGE, args);
  gpu.fetch(out), gpu.fetch(out_lse);
  Compare compare("merge of " + std::to_string(parts) + " parts " + name_of(parts_dtype) + " to " + name_of(dtype), 1e-5,
                  relative_error(dtype));
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      double total = 0;
      for (int64_t p = 0; p < parts; ++p) total += std::exp(static_cast<double>(lse.at(p, t, h)));
      compare(out_lse.at(t, h), std::log(total));
      for (int64_t i = 0; i < dim; ++i) {
        double sum = 0;
        for (int64_t p = 0; p < parts; ++p) {
          const double weight = std::exp(static_cast<double>(lse.at(p, t, h)));
          if (weight > 0) sum += weight / total * flat.values[static_cast<size_t>(((p * tokens + t) * heads + h) * dim + i)];
        }
        compare(out.at(t, h, i), sum);
      }
    }
  }
  gpu.release();
}

}  // namespace

void check_paging(Gpu& gpu) {
  for (const int32_t dtype : {KVASIR_F32, KVASIR_F16, KVASIR_BF16}) {
    rope(gpu, dtype, 5, 128, 64, 0);
    rope(gpu, dtype, 2, 64, 16, 136);
    rope(gpu, dtype, 3, 24, 6, 75);
    append(gpu, dtype, 2, 6, 128, 64, true);
    append(gpu, dtype, 2, 6, 64, 32, false);
    append(gpu, dtype, 1, 1, 96, 12, true);
    append(gpu, dtype, 3, 3, 40, 0, true);
    merge(gpu, KVASIR_F32, dtype, 1, 64);
    merge(gpu, dtype, dtype, 3, 128);
    merge(gpu, KVASIR_F32, dtype, 7, 72);
  }
}

}  // namespace driver
