// Scattered pages by every path, in both directions, of sizes and offsets that take each width of the kernels; from memory that
// is registered in pieces; and what is refused.
#include <algorithm>
#include <numeric>

#include "harness.h"

namespace driver {

namespace {

struct Layout {
  size_t stride, bytes, to_offset, from_offset;
  int32_t slots;
};

// Host memory that is registered in two pieces, so that pages cross their border.
class HostPool {
 public:
  HostPool(Gpu& gpu, size_t bytes) : gpu_(gpu), bytes_((bytes + 8191) / 8192 * 8192) {
    data_ = static_cast<char*>(aligned_alloc(8192, bytes_));
    kvasir_error err{};
    for (size_t half = 0; half < 2; ++half)
      gpu_.ok(gpu_.backend->host_register(gpu_.device, data_ + half * (bytes_ / 2), bytes_ / 2, &err), err, "host_register");
  }
  ~HostPool() {
    for (size_t half = 0; half < 2; ++half) gpu_.backend->host_unregister(gpu_.device, data_ + half * (bytes_ / 2));
    free(data_);
  }
  HostPool(const HostPool&) = delete;
  char* data() { return data_; }

 private:
  Gpu& gpu_;
  size_t bytes_;
  char* data_;
};

std::vector<int32_t> shuffled(int32_t slots, int32_t count) {
  std::vector<int32_t> list(static_cast<size_t>(slots));
  std::iota(list.begin(), list.end(), 0);
  std::shuffle(list.begin(), list.end(), generator);
  list.resize(static_cast<size_t>(count));
  return list;
}

void one_copy(Gpu& gpu, const Layout& layout, bool in, int32_t path, bool neighbours) {
  const size_t pool = layout.stride * static_cast<size_t>(layout.slots);
  std::vector<char> source(pool), expected(pool), got(pool);
  for (size_t i = 0; i < pool; ++i) source[i] = static_cast<char>(i * 31 + i / 253), expected[i] = static_cast<char>(i * 7 + 3);
  HostPool host(gpu, pool);
  auto* device = static_cast<char*>(gpu.allocate(pool));
  memcpy(host.data(), in ? source.data() : expected.data(), pool);
  gpu.write(device, in ? expected.data() : source.data(), pool);

  const int32_t count = std::max(1, layout.slots * 3 / 4);
  std::vector<int32_t> to = shuffled(layout.slots, count), from = shuffled(layout.slots, count);
  if (neighbours) std::sort(to.begin(), to.end()), std::sort(from.begin(), from.end());
  kvasir_page_copy copy{};
  copy.to = in ? device : host.data();
  copy.from = in ? host.data() : device;
  copy.to_stride = copy.from_stride = layout.stride;
  copy.to_offset = layout.to_offset;
  copy.from_offset = layout.from_offset;
  copy.bytes = layout.bytes;
  copy.to_slots = to.data();
  copy.from_slots = from.data();
  copy.count = count;
  copy.path = path;
  for (size_t i = 0; i < to.size(); ++i)
    memcpy(&expected[static_cast<size_t>(to[i]) * layout.stride + layout.to_offset],
           &source[static_cast<size_t>(from[i]) * layout.stride + layout.from_offset], layout.bytes);
  kvasir_error err{};
  gpu.ok(gpu.backend->copy_pages(gpu.stream, &copy, &err), err, "copy_pages");
  std::fill(to.begin(), to.end(), -1);  // the lists are ours again
  std::fill(from.begin(), from.end(), -1);
  gpu.finish();
  if (in)
    got = gpu.read(device, pool);
  else
    memcpy(got.data(), host.data(), pool);
  expect(got == expected, std::to_string(count) + " pages of " + std::to_string(layout.bytes) + " bytes, stride " +
                              std::to_string(layout.stride) + (in ? ", in" : ", out") + ", path " + std::to_string(path));
  gpu.release();
}

void refusals(Gpu& gpu) {
  auto* device = static_cast<char*>(gpu.allocate(4096));
  std::vector<char> pageable(4096);
  const int32_t slot = 0;
  kvasir_page_copy copy{};
  copy.to = device;
  copy.from = pageable.data();
  copy.to_stride = copy.from_stride = copy.bytes = 4096;
  copy.to_slots = copy.from_slots = &slot;
  copy.count = 1;
  kvasir_error err{};
  for (const int32_t path : {KVASIR_COPY_BATCH, KVASIR_COPY_KERNEL}) {
    copy.path = path;
    expect(gpu.backend->copy_pages(gpu.stream, &copy, &err) == KVASIR_UNSUPPORTED, "pageable memory is refused by name");
  }
  copy.path = KVASIR_COPY_AUTO;
  gpu.ok(gpu.backend->copy_pages(gpu.stream, &copy, &err), err, "copy_pages of pageable memory");
  gpu.finish();
  gpu.ok(gpu.backend->record_begin(gpu.stream, &err), err, "record_begin");
  expect(gpu.backend->copy_pages(gpu.stream, &copy, &err) == KVASIR_UNSUPPORTED, "pages are refused in a recording");
  expect(gpu.backend->copy_in(gpu.stream, device, pageable.data(), 4096, 0, &err) == KVASIR_UNSUPPORTED,
         "pageable memory is refused in a recording");
  kvasir_program* program = nullptr;
  gpu.ok(gpu.backend->record_end(gpu.stream, &program, &err), err, "record_end");
  gpu.backend->program_destroy(program);
  gpu.release();
}

}  // namespace

void check_page_copy(Gpu& gpu) {
  const Layout layouts[] = {
      {4096, 4096, 0, 0, 60},       {65536, 65536, 0, 0, 20}, {48, 48, 0, 0, 700},   {8192, 40 * 16, 16, 32, 50},
      {40976, 40976, 0, 0, 20},     {1000, 1000, 0, 0, 50},   {1002, 500, 2, 4, 50}, {1037, 1031, 3, 6, 50},
      {300016, 290016, 0, 4096, 8}, {16, 16, 0, 0, 9000},     {8, 8, 0, 0, 3000},    {1, 1, 0, 0, 5000},
  };
  for (const Layout& layout : layouts) {
    for (const bool in : {true, false}) {
      for (const int32_t path : {KVASIR_COPY_AUTO, KVASIR_COPY_DMA, KVASIR_COPY_BATCH, KVASIR_COPY_KERNEL}) {
        one_copy(gpu, layout, in, path, false);
        if (path != KVASIR_COPY_AUTO) one_copy(gpu, layout, in, path, true);
      }
    }
  }
  refusals(gpu);
}

}  // namespace driver
