import { expect, test } from "vitest";
import { crossEntropy } from "../../lib/index.js";
import { eachKernel, expectClose, floatTypes, matrix, normals } from "./numbers.js";

eachKernel((device) => {
  for (const dtype of floatTypes) {
    test(`${dtype}: nll = logsumexp(logits) - logits[target]`, async () => {
      for (const [rows, vocab] of [
        [1, 1],
        [7, 255],
        [3, 257],
        [2, 1000],
        [2, 40000],
        [0, 9],
      ] as const) {
        for (const scale of [1, 20, 1e4]) {
          const seed = vocab + 3;
          const logits = matrix(device, dtype, rows, vocab, normals(seed, rows * vocab, scale), 3);
          const targets = Int32Array.from({ length: rows }, (_, row) => (row * 53) % vocab);
          const nll = device.empty("f32", [rows]);
          crossEntropy(device.stream, { logits, targets: device.tensor("i32", [rows], targets), nll });
          const [values, got] = await Promise.all([logits.readFloats(), nll.readFloats()]);
          const want = Float64Array.from(targets, (target, row) => {
            const line = values.subarray(row * vocab, (row + 1) * vocab);
            const max = line.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
            return Math.log(line.reduce((sum, value) => sum + Math.exp(value - max), 0)) - ((line[target] as number) - max);
          });
          const what = `cross_entropy ${dtype} [${rows}, ${vocab}] scale ${scale}, seed ${seed}`;
          expectClose(got, want, (i) => 2e-6 * Math.max(1, Math.abs(want[i] as number)), what);
        }
      }
    });
  }

  test("a negative target costs nothing, -inf elsewhere nothing either, and a -inf target everything", async () => {
    const low = Number.NEGATIVE_INFINITY;
    const logits = device.tensor("f32", [3, 4], [1, 2, 3, 4, 0, low, 0, low, 0, low, 0, low]);
    const nll = device.empty("f32", [3]);
    crossEntropy(device.stream, { logits, targets: device.tensor("i32", [3], Int32Array.of(-1, 2, 1)), nll });
    const got = await nll.readFloats();
    expect(got[0]).toBe(0);
    expect(got[1]).toBeCloseTo(Math.LN2, 6);
    expect(got[2]).toBe(Number.POSITIVE_INFINITY);
  });
});
