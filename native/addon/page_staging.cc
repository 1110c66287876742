#include "page_staging.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "../core/page_envelope.h"
#include "host_array.h"
#include "wraps.h"

namespace kvasir::addon {

namespace {

constexpr size_t kChunkBytes = size_t{128} << 10;  // copied, then summed while the cache has it
constexpr size_t kKeyBytes = 16;
constexpr int64_t kMostPages = 1 << 20;

// What one call moves; the arrays are copies, but for the pool and the staging memory.
struct Batch {
  char* pool = nullptr;
  size_t pool_slots = 0, page_bytes = 0;
  uint8_t* staging = nullptr;
  size_t staging_bytes = 0;
  std::vector<int32_t> slots;
  std::vector<double> offsets, lengths;
  std::vector<uint8_t> fingerprint, keys, parents;
  uint32_t group = 0, page_size = 0;
  std::vector<int32_t> tokens;

  size_t pages() const { return slots.size(); }
  size_t header_bytes() const { return envelope_bytes(page_size); }
  char* slot(size_t page) const { return pool + static_cast<size_t>(slots[page]) * page_bytes; }
  uint8_t* staged(size_t page) const { return staging + static_cast<size_t>(offsets[page]); }
  PageEnvelope envelope(size_t page) const {
    return {fingerprint.data(),
            keys.data() + page * kKeyBytes,
            parents.data() + page * kKeyBytes,
            tokens.data() + page * page_size,
            page_size,
            group,
            page_bytes};
  }
};

// Work of the copy thread.
class Staging {
 public:
  // results: null to seal; one byte a page to open.
  Staging(Batch batch, uint8_t* results) : batch_(std::move(batch)), results_(results) {}

  void seal() {
    for (size_t page = 0; page < batch_.pages(); ++page) {
      uint8_t* staged = batch_.staged(page);
      seal_envelope(batch_.envelope(page), copy(staged + batch_.header_bytes(), batch_.slot(page)), staged);
    }
  }

  void open() {
    for (size_t page = 0; page < batch_.pages(); ++page) results_[page] = static_cast<uint8_t>(open_page(page));
  }

 private:
  // Judges a copy of the header, for the staging memory is shared with a thread that could be wrong.
  EnvelopeField open_page(size_t page) {
    const size_t header = batch_.header_bytes();
    if (static_cast<size_t>(batch_.lengths[page]) != header + batch_.page_bytes) return EnvelopeField::length;
    std::memcpy(header_, batch_.staged(page), header);
    const EnvelopeField field = check_envelope(header_, header, batch_.envelope(page));
    if (field != EnvelopeField::none) return field;
    const uint32_t crc = copy(batch_.slot(page), batch_.staged(page) + header);
    return crc == envelope_payload_crc(header_) ? EnvelopeField::none : EnvelopeField::payload_crc;
  }

  // The checksum is that of the copy, whatever happens to the source meanwhile.
  uint32_t copy(void* to, const void* from) const {
    uint32_t crc = 0;
    for (size_t done = 0; done < batch_.page_bytes; done += kChunkBytes) {
      const size_t bytes = std::min(kChunkBytes, batch_.page_bytes - done);
      std::memcpy(static_cast<char*>(to) + done, static_cast<const char*>(from) + done, bytes);
      crc = crc32c(static_cast<char*>(to) + done, bytes, crc);
    }
    return crc;
  }

  Batch batch_;
  uint8_t* results_;
  uint8_t header_[kMostEnvelopeBytes];
};

template <class T>
std::vector<T> elements(const Call& call, size_t index, const char* name, napi_typedarray_type type, const char* words,
                        size_t count) {
  const HostArray array = host_array(call, index, name, sizeof(T));
  if (array.type != type) call.wrong(index, name, words);
  if (array.bytes != count * sizeof(T)) {
    throw Failure(kInvalidArgument, std::string(name) + " has " + std::to_string(array.bytes / sizeof(T)) +
                                        " entries, expected " + std::to_string(count) + ".");
  }
  const T* data = static_cast<const T*>(array.data);
  return count == 0 ? std::vector<T>() : std::vector<T>(data, data + count);
}

// Words of keys as their bytes, in which the least significant word comes first.
std::vector<uint8_t> key_bytes(const Call& call, size_t index, const char* name, size_t pages) {
  const std::vector<uint32_t> words = elements<uint32_t>(call, index, name, napi_uint32_array, "Uint32Array", 4 * pages);
  std::vector<uint8_t> bytes(words.size() * 4);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(words[i / 4] >> (8 * (i % 4)));
  return bytes;
}

void read_pool(const Call& call, Batch& batch) {
  TensorWrap& pool = call.object<TensorWrap>(0, "pool");
  pool.check_usable("pool");
  Device& device = *pool.storage->device();
  device.check_usable();
  if (!device.on_host())
    throw Failure(kInvalidArgument, "pool lies on " + device.label() + ", expected a tensor of a CPU device.");
  if (pool.view.rank < 2 || !pool.contiguous())
    throw Failure("ERR_KVASIR_SHAPE", "pool is a strided view or has one dimension, expected [slots, elements of a page].");
  batch.pool = static_cast<char*>(pool.view.data);
  batch.pool_slots = static_cast<size_t>(pool.view.shape[0]);
  batch.page_bytes = batch.pool_slots == 0 ? 0 : pool.bytes() / batch.pool_slots;
}

// Memory of a SharedArrayBuffer cannot be detached, so that a reference keeps it in place.
void read_staging(const Call& call, Batch& batch) {
  bool is_typed = false, is_plain = true;
  napi_typedarray_type type = napi_int8_array;
  napi_value buffer = nullptr;
  void* data = nullptr;
  if (napi_is_typedarray(call.env, call.arguments[2], &is_typed) != napi_ok || !is_typed) call.wrong(2, "staging", "Uint8Array");
  ok(call.env, napi_get_typedarray_info(call.env, call.arguments[2], &type, &batch.staging_bytes, &data, &buffer, nullptr));
  ok(call.env, napi_is_arraybuffer(call.env, buffer, &is_plain));
  if (type != napi_uint8_array || is_plain)
    throw Failure(kInvalidArgument, "staging is not a Uint8Array over a SharedArrayBuffer.");
  batch.staging = static_cast<uint8_t*>(data);
}

void check_places(const Batch& batch) {
  const double limit = static_cast<double>(batch.staging_bytes) - static_cast<double>(batch.header_bytes() + batch.page_bytes);
  for (size_t page = 0; page < batch.pages(); ++page) {
    const double offset = batch.offsets[page];
    if (batch.slots[page] < 0 || static_cast<size_t>(batch.slots[page]) >= batch.pool_slots) {
      throw Failure("ERR_KVASIR_PAGE_OUT_OF_RANGE", "slots[" + std::to_string(page) + "] is " +
                                                        std::to_string(batch.slots[page]) + ", expected a slot of the pool's " +
                                                        std::to_string(batch.pool_slots) + ".");
    }
    if (!(offset >= 0 && offset <= limit && offset == std::floor(offset))) {
      throw Failure(kInvalidArgument, "offsets[" + std::to_string(page) + "] is " + std::to_string(offset) +
                                          ", expected one at which a page of " +
                                          std::to_string(batch.header_bytes() + batch.page_bytes) +
                                          " bytes ends within the staging buffer's " + std::to_string(batch.staging_bytes) + ".");
    }
  }
}

Batch read_batch(const Call& call) {
  Batch batch;
  read_pool(call, batch);
  read_staging(call, batch);
  const size_t pages = host_array(call, 1, "slots", sizeof(int32_t)).bytes / sizeof(int32_t);
  if (pages > static_cast<size_t>(kMostPages))
    throw Failure(kInvalidArgument, "slots has " + std::to_string(pages) + " entries, expected at most a million.");
  batch.slots = elements<int32_t>(call, 1, "slots", napi_int32_array, "Int32Array", pages);
  batch.offsets = elements<double>(call, 3, "offsets", napi_float64_array, "Float64Array", pages);
  batch.fingerprint = elements<uint8_t>(call, 4, "fingerprint", napi_uint8_array, "Uint8Array", kKeyBytes);
  batch.group = static_cast<uint32_t>(call.integer(5, "group", 0, INT32_MAX));
  batch.page_size = static_cast<uint32_t>(call.integer(6, "pageSize", 1, kMostPageTokens));
  batch.keys = key_bytes(call, 7, "keys", pages);
  batch.parents = key_bytes(call, 8, "parents", pages);
  batch.tokens = elements<int32_t>(call, 9, "tokens", napi_int32_array, "Int32Array", pages * batch.page_size);
  check_places(batch);
  return batch;
}

napi_value submit(Call& call, Batch batch, napi_value results, uint8_t* result_bytes) {
  auto completion = std::make_unique<Completion>(call.bindings.completions);
  ok(call.env, napi_create_reference(call.env, call.arguments[2], 1, &completion->held));
  if (results != nullptr) {
    completion->gives_array = true;
    ok(call.env, napi_create_reference(call.env, results, 1, &completion->array));
  }
  const auto staging = std::make_shared<Staging>(std::move(batch), result_bytes);
  const napi_value promise = call.bindings.completions.promise(*completion);
  const auto owned = std::make_shared<std::unique_ptr<Completion>>(std::move(completion));
  call.bindings.native->page_copies.run(*call.object<TensorWrap>(0, "pool").storage,
                                        [staging, owned, opens = results != nullptr] {
                                          if (opens)
                                            staging->open();
                                          else
                                            staging->seal();
                                          Completions& completions = (*owned)->completions;
                                          completions.post(std::move(*owned));
                                        });
  return promise;
}

}  // namespace

napi_value seal_pages(Call& call) { return submit(call, read_batch(call), nullptr, nullptr); }

napi_value open_pages(Call& call) {
  Batch batch = read_batch(call);
  batch.lengths = elements<double>(call, 10, "lengths", napi_float64_array, "Float64Array", batch.pages());
  for (double& length : batch.lengths) length = length >= 0 && length < 0x1p53 ? length : 0;
  napi_value results = nullptr;
  void* data = nullptr;
  const size_t pages = batch.pages();
  if (napi_create_arraybuffer(call.env, pages, &data, &results) != napi_ok) throw Napi::Error::New(call.env);
  return submit(call, std::move(batch), results, static_cast<uint8_t*>(data));
}

napi_value envelope_size(Call& call) {
  return call.value(static_cast<double>(envelope_bytes(static_cast<uint32_t>(call.integer(0, "pageSize", 1, kMostPageTokens)))));
}

}  // namespace kvasir::addon
