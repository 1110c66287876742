import { expect, test } from "vitest";
import { append, attention, attentionReference, createPageTable, openDevice } from "../../lib/index.js";
import { normals } from "../../bench/data.js";
import { onBackend } from "../device.js";

const pageSize = 64;
const kvHeads = 8;
const headDim = 128;
const elementsPerPage = kvHeads * 2 * pageSize * headDim;
/** Past 2^31 elements, so that the last slots' offsets fit in no 32-bit integer. */
const slots = 2 ** 31 / elementsPerPage + 64;

onBackend("cuda", (device) => {
  test("a pool beyond 2^31 elements is written and read at its far end", async () => {
    const seed = Math.floor(Math.random() * 2 ** 31);
    const kvLen = 3 * pageSize - 5;
    const heads = 16;
    using pages = device.empty("bf16", [slots, elementsPerPage]);
    pages.fill(0xff); // NaN everywhere
    const pageOffsets = device.tensor(
      "i32",
      [kvHeads, 2],
      Int32Array.from({ length: kvHeads * 2 }, (_, i) => i * pageSize * headDim * 2),
    );
    const row = [slots - 1, 3, slots - 2];
    using table = createPageTable(device, { rows: [row], kvLens: [kvLen], pageSize, numPages: slots });
    const values = {
      q: normals(4 * heads * headDim, seed),
      k: normals(kvLen * 1024, seed + 1),
      v: normals(kvLen * 1024, seed + 2),
    };
    const q = device.tensor("bf16", [4, heads, headDim], values.q);
    const k = device.tensor("bf16", [kvLen, kvHeads, headDim], values.k);
    const v = device.tensor("bf16", [kvLen, kvHeads, headDim], values.v);
    const positions = device.tensor(
      "i32",
      [kvLen],
      Int32Array.from({ length: kvLen }, (_, i) => i),
    );
    const slotMapping = device.tensor(
      "i32",
      [kvLen],
      Int32Array.from({ length: kvLen }, (_, i) => (row[Math.floor(i / pageSize)] as number) * pageSize + (i % pageSize)),
    );
    append(device.stream, { k, v, positions, slotMapping, pages, pageOffsets, pageSize });
    const out = device.empty("bf16", [4, heads, headDim]);
    out.fill(0xff);
    attention(device.stream, { q, out, pages, pageOffsets, pageSize, causal: true, ...table });
    const actual = await out.readFloats();

    using cpu = openDevice("cpu");
    const onCpu = async (tensor: typeof q) => cpu.tensor("bf16", tensor.shape, await tensor.read());
    const expected = cpu.empty("f32", [4, heads, headDim]);
    attentionReference(cpu.stream, { q: await onCpu(q), k: await onCpu(k), v: await onCpu(v), out: expected, causal: true });
    const reference = await expected.readFloats();
    let worst = 0;
    for (let i = 0; i < reference.length; i++) {
      const error = Math.abs((actual[i] as number) - (reference[i] as number));
      worst = Math.max(worst, error);
    }
    expect(worst, `seed ${seed}`).toBeLessThanOrEqual(1e-2);
  });
});
