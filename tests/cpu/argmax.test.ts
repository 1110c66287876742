import { expect, test } from "vitest";
import { argmax, type Device } from "../../lib/index.js";
import { eachKernel, type FloatType, floatTypes, matrix, normals } from "./numbers.js";

async function argmaxOf(
  device: Device,
  dtype: FloatType,
  rows: number,
  vocab: number,
  values: Float32Array,
): Promise<Int32Array> {
  const logits = matrix(device, dtype, rows, vocab, values, 3);
  const out = device.empty("i32", [rows]);
  argmax(device.stream, { logits, out });
  return (await out.read()) as Int32Array;
}

eachKernel((device) => {
  for (const dtype of floatTypes) {
    test(`${dtype}: the largest logit, the lowest index of equals`, async () => {
      for (const vocab of [1, 7, 255, 257, 1000, 4096]) {
        const rows = 9;
        // Coarse steps, so that 16-bit types are exact and equal maxima are common.
        const values = normals(vocab, rows * vocab).map((value) => Math.round(value * 8) / 8);
        const got = await argmaxOf(device, dtype, rows, vocab, values);
        for (let row = 0; row < rows; row++) {
          const line = values.subarray(row * vocab, (row + 1) * vocab);
          const best = line.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
          expect(got[row], `row ${row} of vocab ${vocab}, seed ${vocab}`).toBe(line.indexOf(best));
        }
      }
    });
  }

  test("infinite logits take part", async () => {
    const [low, high] = [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
    const values = new Float32Array(3 * 130).fill(low);
    values[130 + 129] = -5;
    values[260 + 70] = high;
    values[260 + 90] = high;
    expect([...(await argmaxOf(device, "f32", 3, 130, values))]).toEqual([0, 129, 70]);
  });
});
