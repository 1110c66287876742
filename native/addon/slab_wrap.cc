// NativeSlab: a slab file and the pools of pages that it moves, for JavaScript. lib/native.ts says what its methods mean.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

#include "../core/dtype.h"
#include "slab_driver.h"
#include "wraps.h"

namespace kvasir::addon {

namespace {

// Host memory of a layer group: slot i of the pool is page_bytes at base + i * page_bytes.
struct PagePool {
  std::shared_ptr<Storage> storage;
  char* base = nullptr;
  int64_t slots = 0;
  uint64_t page_bytes = 0;
};

// Tells the storages of pools how far batches are: memory that is disposed stays until those that were begun are done. They end
// in any order; the fence passes a number once all batches up to it have.
class BatchFence {
 public:
  explicit BatchFence(FlagSlabs& flags) : fence_(std::make_shared<Fence>()) {
    fence_->cell = flags.create();
    begun_ = passed_ = fence_->cell->value();
  }
  uint64_t begin(Storage& storage) {
    storage.uses.touch(fence_, ++begun_);
    return begun_;
  }
  // From any thread.
  void end(uint64_t number) {
    const std::lock_guard lock(lock_);
    early_.insert(number);
    while (early_.erase(passed_ + 1) > 0) ++passed_;
    fence_->cell->store(passed_);
  }

 private:
  const std::shared_ptr<Fence> fence_;
  uint64_t begun_ = 0;  // JavaScript thread
  std::mutex lock_;
  std::unordered_set<uint64_t> early_;  // these two guarded by lock_
  uint64_t passed_ = 0;
};

struct SlabWrap : Wrapped, Ending {
  static constexpr Kind kKind = Kind::slab;
  static constexpr char kName[] = "slab file";
  SlabWrap(std::shared_ptr<Bindings> b, SlabOptions options, std::vector<PagePool> p)
      : Wrapped(kKind, std::move(b)),
        pools(std::move(p)),
        fence(std::make_shared<BatchFence>(bindings->native->flags)),
        driver(std::make_unique<SlabDriver>(std::move(options))) {
    bindings->native->endings.insert(this);
  }
  ~SlabWrap() override { bindings->native->endings.erase(this); }
  void end() override { driver.reset(); }

  const std::vector<PagePool> pools;
  const std::shared_ptr<BatchFence> fence;
  std::unique_ptr<SlabDriver> driver;  // null once the environment goes down
  std::unordered_map<int64_t, std::weak_ptr<PageBatch>> batches;
  SlabDriver::Opened opened;
  bool was_opened = false;
};

struct Words {
  const uint8_t* bytes = nullptr;
  size_t count = 0;
};

// A Uint32Array or Int32Array, whose memory is read before the call returns.
Words words(Call& call, size_t index, const char* name, napi_typedarray_type type) {
  const napi_value value = call.arguments[index];
  bool is_typed = false;
  napi_typedarray_type found = napi_uint8_array;
  Words out;
  void* data = nullptr;
  if (napi_is_typedarray(call.env, value, &is_typed) == napi_ok && is_typed)
    ok(call.env, napi_get_typedarray_info(call.env, value, &found, &out.count, &data, nullptr, nullptr));
  if (!is_typed || found != type) call.wrong(index, name, type == napi_uint32_array ? "Uint32Array" : "Int32Array");
  out.bytes = static_cast<const uint8_t*>(data);
  return out;
}

void need_count(const char* name, size_t found, size_t expected) {
  if (found == expected) return;
  throw Failure(kInvalidArgument,
                std::string(name) + " has " + std::to_string(found) + " entries, expected " + std::to_string(expected) + ".");
}

uint32_t group_of(SlabWrap& self, Call& call, size_t index) {
  return static_cast<uint32_t>(call.integer(index, "group", 0, static_cast<int64_t>(self.pools.size()) - 1));
}

Words keys_of(Call& call, size_t index) {
  const Words keys = words(call, index, "keys", napi_uint32_array);
  if (keys.count % 4 != 0)
    throw Failure(kInvalidArgument, "keys has " + std::to_string(keys.count) + " words, expected a multiple of 4.");
  return keys;
}

SlabDriver& driver_of(SlabWrap& self) {
  if (!self.was_opened || self.driver == nullptr || !self.driver->is_open())
    throw Failure(kDisposed, "The slab file is not open.");
  return *self.driver;
}

napi_value status_array(Call& call, size_t count, uint8_t*& statuses) {
  napi_value buffer = nullptr, array = nullptr;
  void* data = nullptr;
  ok(call.env, napi_create_arraybuffer(call.env, count, &data, &buffer));
  ok(call.env, napi_create_typedarray(call.env, napi_uint8_array, count, buffer, 0, &array));
  statuses = static_cast<uint8_t*>(data);
  return array;
}

// A completion that keeps the receiver alive, and posts itself by `finish`, once, from any thread.
Completion* pending(Call& call, napi_value array) {
  auto completion = std::make_unique<Completion>(call.bindings.completions);
  completion->load = std::make_shared<LoadResult>();
  ok(call.env, napi_create_reference(call.env, call.self, 1, &completion->held));
  if (array != nullptr) {
    ok(call.env, napi_create_reference(call.env, array, 1, &completion->array));
    completion->gives_array = true;
  }
  return completion.release();
}

void post(Completion* completion) { completion->completions.post(std::unique_ptr<Completion>(completion)); }

napi_value open_slab(SlabWrap& self, Call& call) {
  if (self.was_opened || self.driver == nullptr) throw Failure(kInvalidArgument, "The slab file was opened before.");
  self.was_opened = true;
  Completion* completion = pending(call, nullptr);
  const napi_value promise = call.bindings.completions.promise(*completion);
  self.driver->open([&self, completion](SlabDriver::Opened opened) {
    if (opened.code != nullptr) *completion->load = {opened.code, opened.sentence};
    self.opened = std::move(opened);  // read after the promise
    post(completion);
  });
  return promise;
}

napi_value found_identity(SlabWrap& self, Call& call) {
  return self.opened.found_identity.empty() ? call.undefined() : call.value(self.opened.found_identity);
}

napi_value lookup(SlabWrap& self, Call& call) {
  SlabDriver& driver = driver_of(self);
  const uint32_t group = group_of(self, call, 0);
  const Words keys = keys_of(call, 1);
  uint8_t* found = nullptr;
  const napi_value array = status_array(call, keys.count / 4, found);
  driver.lookup(group, keys.bytes, keys.count / 4, found);
  return array;
}

std::shared_ptr<PageBatch> batch_of(SlabWrap& self, uint32_t group, BatchKind kind, const Words& keys) {
  auto batch = std::make_shared<PageBatch>();
  batch->kind = kind;
  batch->group = group;
  batch->page_bytes = self.pools[group].page_bytes;
  batch->keys.resize(keys.count / 4);
  for (size_t i = 0; i < batch->count(); ++i) {
    batch->keys[i].group = group;
    std::copy_n(keys.bytes + 16 * i, 16, batch->keys[i].bytes.begin());
  }
  return batch;
}

void locate_pages(const PagePool& pool, const Words& slots, PageBatch& batch) {
  batch.memory.resize(batch.count());
  for (size_t i = 0; i < batch.count(); ++i) {
    int32_t slot = 0;
    std::memcpy(&slot, slots.bytes + 4 * i, 4);
    if (slot < 0 || slot >= pool.slots) {
      throw Failure("ERR_KVASIR_PAGE_OUT_OF_RANGE", "slots[" + std::to_string(i) + "] is " + std::to_string(slot) +
                                                        ", expected 0 to " + std::to_string(pool.slots - 1) +
                                                        ", the group's pool.");
    }
    batch.memory[i] = pool.base + static_cast<uint64_t>(slot) * pool.page_bytes;
  }
}

// Hands a batch to the driver. Its memory stays, and the device of it does not close, before it is done.
napi_value start(SlabWrap& self, Call& call, SlabDriver& driver, const std::shared_ptr<PageBatch>& batch) {
  const napi_value array = status_array(call, batch->count(), batch->statuses);
  Completion* completion = pending(call, array);
  const napi_value promise = call.bindings.completions.promise(*completion);
  Storage& storage = *self.pools[batch->group].storage;
  Device* device = storage.device().get();
  device->hold_open();
  batch->done = [device, fence = self.fence, number = self.fence->begin(storage), completion] {
    fence->end(number);
    device->let_close();
    post(completion);
  };
  driver.submit(batch);
  return promise;
}

// (id, group, keys, parents, tokens, slots)
napi_value move_pages(SlabWrap& self, Call& call, BatchKind kind) {
  SlabDriver& driver = driver_of(self);
  const int64_t id = call.integer(0, "id", 0, int64_t{1} << 53);
  const uint32_t group = group_of(self, call, 1);
  const PagePool& pool = self.pools[group];
  pool.storage->device()->check_usable();
  const Words keys = keys_of(call, 2), parents = words(call, 3, "parents", napi_uint32_array);
  const Words tokens = words(call, 4, "tokens", napi_int32_array), slots = words(call, 5, "slots", napi_int32_array);
  const size_t count = keys.count / 4, page_size = driver.file().options().page_size;
  need_count("parents", parents.count, keys.count);
  need_count("tokens", tokens.count, count * page_size);
  need_count("slots", slots.count, count);
  const std::shared_ptr<PageBatch> batch = batch_of(self, group, kind, keys);
  locate_pages(pool, slots, *batch);
  batch->parents.resize(count);
  if (count > 0) std::memcpy(batch->parents.data(), parents.bytes, 16 * count);
  batch->tokens.resize(tokens.count);
  if (count > 0) std::memcpy(batch->tokens.data(), tokens.bytes, 4 * tokens.count);
  std::erase_if(self.batches, [](const auto& known) { return known.second.expired(); });
  self.batches[id] = batch;
  return start(self, call, driver, batch);
}

napi_value load_pages(SlabWrap& self, Call& call) { return move_pages(self, call, BatchKind::load); }
napi_value store_pages(SlabWrap& self, Call& call) { return move_pages(self, call, BatchKind::store); }

napi_value remove_pages(SlabWrap& self, Call& call) {
  SlabDriver& driver = driver_of(self);
  const uint32_t group = group_of(self, call, 0);
  return start(self, call, driver, batch_of(self, group, BatchKind::remove, keys_of(call, 1)));
}

napi_value abort_pages(SlabWrap& self, Call& call) {
  const auto found = self.batches.find(call.integer(0, "id", 0, int64_t{1} << 53));
  if (found == self.batches.end()) return call.undefined();
  if (const std::shared_ptr<PageBatch> batch = found->second.lock()) batch->aborted = true;
  return call.undefined();
}

napi_value object_of(Call& call, std::initializer_list<std::pair<const char*, double>> numbers) {
  napi_value object = nullptr;
  ok(call.env, napi_create_object(call.env, &object));
  for (const auto& [name, number] : numbers) ok(call.env, napi_set_named_property(call.env, object, name, call.value(number)));
  return object;
}

napi_value stats_of(SlabWrap& self, Call& call) {
  if (self.driver == nullptr) throw Failure(kDisposed, "The slab file is not open.");
  const SlabStats stats = self.driver->stats();
  const SlabCounters& counters = stats.counters;
  const auto number = [](uint64_t value) { return static_cast<double>(value); };
  return object_of(call, {{"pages", number(stats.pages)},
                          {"bytes", number(stats.payload_bytes)},
                          {"capacityBytes", number(self.driver->file().options().max_bytes)},
                          {"loads", number(counters.loads)},
                          {"loadedBytes", number(counters.loaded_bytes)},
                          {"stores", number(counters.stores)},
                          {"storedBytes", number(counters.stored_bytes)},
                          {"misses", number(counters.misses)},
                          {"damaged", number(counters.damaged)},
                          {"failures", number(counters.failures)},
                          {"refused", number(counters.refused)},
                          {"evictions", number(counters.evictions)}});
}

napi_value describe(SlabWrap& self, Call& call) {
  const SlabFile& file = driver_of(self).file();
  const napi_value object = object_of(call, {{"slotBytes", static_cast<double>(file.layout().slot_bytes())},
                                             {"capacityPages", static_cast<double>(file.capacity())},
                                             {"droppedEntries", static_cast<double>(file.dropped_entries())}});
  const auto set = [&](const char* name, napi_value value) {
    ok(call.env, napi_set_named_property(call.env, object, name, value));
  };
  set("engine", call.value(file.engine_name()));
  set("isDirect", call.boolean(file.is_direct()));
  if (!file.why_not_ring().empty()) set("whyNotRing", call.value(file.why_not_ring()));
  return object;
}

napi_value inject(SlabWrap& self, Call& call) {
  SlabDriver& driver = driver_of(self);
  if (!driver.file().options().has_faults)
    throw Failure(kUnsupported, "Faults are injected for tests alone; set KVASIR_DEBUG=faults before the slab file is made.");
  const Napi::Object given(call.env, call.arguments[0]);
  const auto number = [&](const char* name, int64_t otherwise) {
    const Napi::Value value = given.Get(name);
    return value.IsNumber() ? value.As<Napi::Number>().Int64Value() : otherwise;
  };
  IoFaults faults;
  faults.fail_read = number("failRead", 0);
  faults.fail_write = number("failWrite", 0);
  faults.fail_count = number("failCount", 1);
  faults.error = static_cast<int>(number("errno", 5));
  faults.most_bytes = number("mostBytes", 0);
  faults.delay_us = number("delayMicroseconds", 0);
  faults.no_space = number("noSpace", 0) != 0;
  driver.inject(faults);
  return call.undefined();
}

napi_value close_slab(SlabWrap& self, Call& call) {
  Completion* completion = pending(call, nullptr);
  const napi_value promise = call.bindings.completions.promise(*completion);
  if (self.driver == nullptr)
    post(completion);
  else
    self.driver->close(false, [completion] { post(completion); });
  return promise;
}

SlabOptions options_of(Call& call) {
  const Napi::Object given(call.env, call.arguments[1]);
  const auto number = [&](const char* name) { return given.Get(name).ToNumber().Int64Value(); };
  SlabOptions options;
  options.path = call.string(0, "path");
  options.max_bytes = static_cast<uint64_t>(std::max<int64_t>(0, number("maxBytes")));
  options.page_size = static_cast<uint32_t>(number("pageSize"));
  options.identity = given.Get("identity").ToString().Utf8Value();
  options.engine = static_cast<EngineChoice>(number("engine"));
  options.resets = given.Get("resets").ToBoolean();
  options.sync_ms = number("syncMs");
  const char* debug = std::getenv("KVASIR_DEBUG");
  options.has_faults = debug != nullptr && std::strstr(debug, "faults") != nullptr;
  options.refuses_direct = options.has_faults && given.Get("refusesDirect").ToBoolean();
  const Napi::Value digest = given.Get("fingerprint");
  if (!digest.IsTypedArray() || digest.As<Napi::TypedArray>().ByteLength() != options.fingerprint.size())
    throw Failure(kInvalidArgument, "fingerprint is " + in_words(call.env, digest) + ", expected a Uint8Array of 16 bytes.");
  std::memcpy(options.fingerprint.data(), digest.As<Napi::Uint8Array>().Data(), options.fingerprint.size());
  if (options.page_size < 1 || options.page_size > kMostPageTokens)
    throw Failure(kInvalidArgument, "pageSize is " + std::to_string(options.page_size) + ", expected 1 to 256.");
  return options;
}

PagePool pool_of(Call& call, napi_value value, uint32_t index) {
  const std::string name = "pools[" + std::to_string(index) + "]";
  Wrapped* wrapped = unwrap(call.bindings, value);
  if (wrapped == nullptr || wrapped->kind != Kind::tensor)
    throw Failure(kInvalidArgument, name + " is " + in_words(call.env, value) + ", expected a tensor.");
  const auto& tensor = static_cast<const TensorWrap&>(*wrapped);
  tensor.check_usable(name.c_str());
  if (!tensor.storage->device()->on_host() || !tensor.contiguous() || tensor.view.rank != 2 || tensor.elements() == 0) {
    throw Failure(kInvalidArgument,
                  name + " is no pool of pages, expected a contiguous tensor [slots, elements of a page] of a CPU device.");
  }
  PagePool pool;
  pool.storage = tensor.storage;
  pool.base = static_cast<char*>(tensor.view.data);
  pool.slots = tensor.view.shape[0];
  pool.page_bytes = static_cast<uint64_t>(tensor.view.shape[1] * dtype_bytes(tensor.view.dtype));
  return pool;
}

}  // namespace

napi_value create_slab(Call& call) {
  SlabOptions options = options_of(call);
  const Napi::Array given(call.env, call.arguments[2]);
  std::vector<PagePool> pools;
  for (uint32_t i = 0; i < given.Length(); ++i) {
    pools.push_back(pool_of(call, given.Get(i), i));
    options.page_bytes = std::max(options.page_bytes, pools.back().page_bytes);
  }
  if (pools.empty()) throw Failure(kInvalidArgument, "pools is empty, expected one for each layer group.");
  return new_object(call.bindings,
                    std::make_unique<SlabWrap>(call.bindings.shared_from_this(), std::move(options), std::move(pools)));
}

void define_slab(Bindings& b) {
  using S = SlabWrap;
  define_class(
      b, Kind::slab, "NativeSlab",
      {method_of<S, open_slab>("open", b), getter_of<S, found_identity>("foundIdentity", b), method_of<S, lookup>("lookup", b),
       method_of<S, load_pages>("load", b), method_of<S, store_pages>("store", b), method_of<S, remove_pages>("remove", b),
       method_of<S, abort_pages>("abort", b), method_of<S, stats_of>("stats", b), method_of<S, describe>("describe", b),
       method_of<S, inject>("injectFaults", b), method_of<S, close_slab>("close", b)});
}

}  // namespace kvasir::addon
