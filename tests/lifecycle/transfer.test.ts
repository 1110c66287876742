/** Bytes in, the same bytes out: every dtype, every kind of view, files. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { type BitArray, type DType, cast, dtypeBytes, dtypes } from "../../lib/index.js";
import { eachBackend } from "../device.js";
import { expectRejection } from "../expect_error.js";

const folder = mkdtempSync(join(tmpdir(), "kvasir-"));
afterAll(() => rmSync(folder, { recursive: true }));

const arrays: Record<DType, new (buffer: ArrayBuffer) => BitArray> = {
  f32: Float32Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  f8e4m3: Uint8Array,
  f8e5m2: Uint8Array,
  i32: Int32Array,
  u8: Uint8Array,
  i8: Int8Array,
};
function noise(bytes: number): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(bytes);
  for (let i = 0; i < bytes; i++) out[i] = i * 167 + (i >> 8) * 31;
  return out;
}
const bytesOf = (array: BitArray): Uint8Array => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

eachBackend((device) => {
  describe.each([...dtypes])("%s", (dtype) => {
    test("bits come back as they went in, as the right array", async () => {
      const bits = new arrays[dtype](noise(3 * 333 * dtypeBytes[dtype]).buffer);
      using x = device.tensor(dtype, [3, 333], bits);
      const back = await x.read();
      expect(back).toBeInstanceOf(arrays[dtype]);
      expect(Buffer.compare(bytesOf(back), bytesOf(bits))).toBe(0);
      using y = device.empty(dtype, [3, 333]);
      await y.write(bits);
      expect(Buffer.compare(bytesOf(await y.read()), bytesOf(bits))).toBe(0);
      using z = device.empty(dtype, [3, 333]);
      z.copyFrom(y);
      expect(Buffer.compare(bytesOf(await z.read()), bytesOf(bits))).toBe(0);
    });

    test("numbers are converted there and back", async () => {
      const values = dtype === "u8" ? [0, 1, 2, 100] : [-2, 0, 1, 96];
      using x = device.tensor(dtype, [2, 2], values);
      expect(Array.from(await x.readFloats())).toEqual(values);
      if (dtype === "i32" || dtype === "u8" || dtype === "i8") return;
      using y = device.tensor(dtype, [4], Float32Array.from(values));
      expect(Array.from(await y.readFloats())).toEqual(values);
    });
  });

  test("the data may change once the call has returned", async () => {
    const data = Float32Array.from({ length: 100_000 }, (_, i) => i);
    using x = device.tensor("f32", [100_000], data);
    data.fill(-1);
    const back = await x.readFloats();
    expect([back[0], back[99_999]]).toEqual([0, 99_999]);
  });

  test("views: slice, select, reshape, strides", async () => {
    using x = device.tensor(
      "i32",
      [4, 6],
      Array.from({ length: 24 }, (_, i) => i),
    );
    const read = async (view: { read(): Promise<BitArray> }): Promise<number[]> => Array.from(await view.read());
    expect(await read(x.slice(1, 3))).toEqual([6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]);
    expect(await read(x.slice(2, 2))).toEqual([]);
    expect(await read(x.select(3))).toEqual([18, 19, 20, 21, 22, 23]);
    expect(await read(x.reshape([2, 3, 4]).select(1).slice(0, 1))).toEqual([12, 13, 14, 15]);
    const columns = x.view({ offset: 1, shape: [4, 2], strides: [6, 1] });
    expect(columns.contiguous).toBe(false);
    expect(await read(columns)).toEqual([1, 2, 7, 8, 13, 14, 19, 20]);
    expect(await read(columns.slice(2, 4))).toEqual([13, 14, 19, 20]);
    expect(await read(x.view({ shape: [2, 2, 3], strides: [3, 12, 1] }))).toEqual([0, 1, 2, 12, 13, 14, 3, 4, 5, 15, 16, 17]);
    using dense = device.empty("i32", [4, 2]);
    dense.copyFrom(columns);
    expect(await read(dense)).toEqual([1, 2, 7, 8, 13, 14, 19, 20]);
    await x.slice(0, 1).write([9, 9, 9, 9, 9, 9]);
    x.select(1).fill(0);
    expect((await read(x)).slice(0, 13)).toEqual([9, 9, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 12]);
    using floats = device.tensor("f32", [2, 3], [1, 2, 3, 4, 5, 6]);
    using narrow = device.empty("bf16", [2, 2]);
    cast(device.stream, { x: floats.view({ offset: 1, shape: [2, 2], strides: [3, 1] }), out: narrow });
    expect(Array.from(await narrow.readFloats())).toEqual([2, 3, 5, 6]);
  });

  test("tensors of no elements", async () => {
    using x = device.zeros("f32", [0, 8]);
    await x.write(new Float32Array(0));
    expect([x.size, x.bytes, (await x.read()).length]).toEqual([0, 0, 0]);
  });

  test("a large write and read", async () => {
    const data = noise(48 * 2 ** 20);
    using x = device.tensor("u8", [data.length], data);
    expect(Buffer.compare(bytesOf(await x.read()), data)).toBe(0);
  });

  test("files: a range of bytes, past large offsets, into views", async () => {
    const bytes = noise(20 * 2 ** 20 + 12);
    const path = join(folder, `noise-${device.backend}`);
    writeFileSync(path, bytes);
    using x = device.empty("u8", [2, 8 * 2 ** 20]);
    await x.loadFile(path, 1001);
    expect(Buffer.compare(bytesOf(await x.read()), bytes.subarray(1001, 1001 + 16 * 2 ** 20))).toBe(0);
    await x.select(1).slice(0, 5).loadFile(path);
    expect(Array.from(await x.select(1).slice(0, 5).read())).toEqual(Array.from(bytes.subarray(0, 5)));
  });

  test("a file that is too short or not there", async () => {
    using x = device.empty("u8", [100]);
    const path = join(folder, "short");
    writeFileSync(path, noise(60));
    await expectRejection("ERR_KVASIR_CORRUPT_FILE", ["short", /60|100/], x.loadFile(path));
    await expectRejection("ERR_KVASIR_CORRUPT_FILE", ["short"], x.loadFile(path, 1000));
    await expectRejection("ERR_KVASIR_INVALID_ARGUMENT", ["absent"], x.loadFile(join(folder, "absent")));
    await expectRejection("ERR_KVASIR_INVALID_ARGUMENT", ["offset is -1"], x.loadFile(path, -1));
    x.fill(3);
    expect((await x.read())[99]).toBe(3);
  });
});
