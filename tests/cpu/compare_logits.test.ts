import { expect, test } from "vitest";
import { compareLogits } from "../../lib/index.js";
import { eachKernel, expectClose, floatTypes, matrix, normals } from "./numbers.js";

function logSoftmax(line: Float32Array): Float64Array {
  const max = line.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
  const shift = max + Math.log(line.reduce((sum, value) => sum + Math.exp(value - max), 0));
  return Float64Array.from(line, (value) => value - shift);
}

eachKernel((device) => {
  for (const dtype of floatTypes) {
    test(`${dtype}: KL divergence and agreement of the argmax`, async () => {
      for (const [rows, vocab] of [
        [1, 1],
        [7, 255],
        [3, 257],
        [2, 1000],
        [2, 20000],
        [0, 9],
      ] as const) {
        for (const distance of [3, 0.1, 0]) {
          const seed = vocab + 5;
          const base = normals(seed, rows * vocab, 4);
          const noise = normals(seed + 1, rows * vocab, distance);
          const reference = matrix(device, "f32", rows, vocab, base, 3);
          const logits = matrix(
            device,
            dtype,
            rows,
            vocab,
            base.map((value, i) => value + (noise[i] as number)),
            1,
          );
          const [kl, agree] = [device.empty("f32", [rows]), device.empty("i32", [rows])];
          compareLogits(device.stream, { reference, logits, kl, agree });
          const [from, to, got, same] = await Promise.all([
            reference.readFloats(),
            logits.readFloats(),
            kl.readFloats(),
            agree.read(),
          ]);
          const wantSame: number[] = [];
          const want = Float64Array.from({ length: rows }, (_, row) => {
            const [a, b] = [from, to].map((all) => logSoftmax(all.subarray(row * vocab, (row + 1) * vocab))) as [
              Float64Array,
              Float64Array,
            ];
            const best = (all: Float64Array): number => all.indexOf(all.reduce((most, value) => Math.max(most, value)));
            wantSame.push(best(a) === best(b) ? 1 : 0);
            return a.reduce((sum, p, i) => sum + Math.exp(p) * (p - (b[i] as number)), 0);
          });
          const what = `compare_logits ${dtype} [${rows}, ${vocab}] distance ${distance}, seed ${seed}`;
          expectClose(got, want, (i) => 1e-5 * Math.abs(want[i] as number) + 1e-6, what);
          expect([...same], what).toEqual(wantSame);
        }
      }
    });
  }

  test("equal rows differ by nothing; a token that only the reference allows costs everything", async () => {
    const low = Number.NEGATIVE_INFINITY;
    const reference = device.tensor("f32", [3, 3], [1, 2, 3, 0, 0, low, 0, 0, low]);
    const logits = device.tensor("f32", [3, 3], [1, 2, 3, 0, low, low, 0, 0, 5]);
    const [kl, agree] = [device.empty("f32", [3]), device.empty("i32", [3])];
    compareLogits(device.stream, { reference, logits, kl, agree });
    const got = await kl.readFloats();
    expect(got[0]).toBe(0);
    expect(got[1]).toBe(Number.POSITIVE_INFINITY);
    expect(got[2]).toBeCloseTo(Math.log((2 + Math.exp(5)) / 2), 4);
    expect([...(await agree.read())]).toEqual([1, 1, 0]);
  });
});
