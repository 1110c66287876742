// A paged KV cache without a model: append, attend over pages, fork, and see what it costs. Run: node examples/paged_cache.mjs
import { append, attention, DevicePageStore, KvCache, openDevice } from "kvasir";

const device = openDevice();
const { stream } = device;
const [numQoHeads, numKvHeads, headDim, pageSize, maxPages] = [8, 2, 64, 64, 32];
const groups = [{ layers: [0], numKvHeads, headDim, dtype: "f32" }];
const store = new DevicePageStore(device, stream, groups, pageSize, maxPages);
const cache = new KvCache({ groups, pageSize, maxPages }, store);
const owned = [];
const own = (tensor) => {
  owned.push(tensor);
  return tensor;
};
const integers = (values) => own(device.tensor("i32", [values.length], values));
const random = (count, heads) =>
  own(device.tensor("f32", [count, heads, headDim], Float32Array.from({ length: count * heads * headDim }, Math.random)));

/** Puts `count` new tokens of random keys and values into the sequence and attends to everything in it. */
function grow(sequence, count) {
  const start = sequence.length;
  sequence.reserve(count);
  const slots = new Int32Array(count);
  cache.slotMapping(0, sequence.row, start, count, slots, 0);
  cache.flush();
  const [q, k, v] = [random(count, numQoHeads), random(count, numKvHeads), random(count, numKvHeads)];
  const out = own(device.empty("f32", [count, numQoHeads, headDim]));
  const pages = store.pages(0);
  const pageOffsets = store.offsets(0, 0);
  append(stream, {
    k,
    v,
    positions: integers(slots.map((_, i) => start + i)),
    slotMapping: integers(slots),
    pages,
    pageOffsets,
    pageSize,
  });
  sequence.commit(count);
  const rowStart = integers([cache.groups[0].table.rowStart(sequence.row)]);
  const kvLen = integers([sequence.length]);
  attention(stream, { q, out, pages, pageOffsets, rowStart, kvLen, pageIndices: store.pageIndices(0), pageSize, causal: true });
  return out;
}

const sequence = cache.createSequence();
grow(sequence, 300);
const fork = sequence.fork(); // shares all pages; the partly filled last one is copied on the first write
const out = grow(fork, 1);
console.log("out[0, 0, :4]", (await out.readFloats()).slice(0, 4));
const { usedBytes, bytesPerToken, groups: counted } = cache.stats();
console.log({ tokens: sequence.length + fork.length, pages: counted[0].pages.active, usedBytes, bytesPerToken });
cache.checkIntegrity();
for (const tensor of owned) tensor.dispose();
store.dispose();
device.dispose();
