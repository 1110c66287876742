import { expect, test } from "vitest";
import { type Device, sample } from "../../lib/index.js";
import { eachKernel, floatTypes, matrix, normals } from "./numbers.js";

/** Philox4x32-10: 24 bits of the first word, counter (step, 0, 0, 0), key (seed, 0). */
function philox(seed: number, step: number): number {
  let [c0, c1, c2, c3, k0, k1] = [step >>> 0, 0, 0, 0, seed >>> 0, 0];
  for (let round = 0; round < 10; round++) {
    const [p0, p1] = [0xd2511f53n * BigInt(c0), 0xcd9e8d57n * BigInt(c2)];
    const [high0, high1] = [Number(p0 >> 32n), Number(p1 >> 32n)];
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, Number(p1 & 0xffffffffn), (high0 ^ c3 ^ k1) >>> 0, Number(p0 & 0xffffffffn)];
    [k0, k1] = [(k0 + 0x9e3779b9) >>> 0, (k1 + 0xbb67ae85) >>> 0];
  }
  return (c0 >>> 8) / 2 ** 24;
}

interface Settings {
  temperature?: number;
  topK?: number;
  topP?: number;
}

/** The documented procedure with a full sort. `close` tells that a rounding error of 1e-6 could change the answer. */
function reference(logits: Float32Array, settings: Settings, seed: number, step: number): { token: number; close: boolean } {
  const order = [...logits.keys()].sort((a, b) => (logits[b] as number) - (logits[a] as number) || a - b);
  const { temperature = 1, topK = 0, topP = 1 } = settings;
  const first = order[0] as number;
  if (temperature === 0) return { token: first, close: false };
  const weigh = (i: number): number => Math.exp(((logits[i] as number) - (logits[first] as number)) / Math.fround(temperature));
  let kept = topK > 0 ? order.slice(0, topK) : order;
  let close = false;
  const reach = (target: number, strict: boolean): number => {
    let sum = 0;
    for (const [rank, i] of kept.entries()) {
      sum += weigh(i);
      close ||= Math.abs(sum - target) < 1e-6 * sum;
      if (strict ? sum > target : sum >= target) return rank;
    }
    return kept.length - 1;
  };
  const mass = (): number => kept.reduce((sum, i) => sum + weigh(i), 0);
  if (topP < 1) kept = kept.slice(0, reach(Math.fround(topP) * mass(), false) + 1);
  return { token: kept[reach(philox(seed, step) * mass(), true)] as number, close };
}

function vectors(device: Device, rows: number, settings: Settings) {
  const fill = <T>(value: T): T[] => new Array<T>(rows).fill(value);
  const { temperature, topK, topP } = settings;
  return {
    temperature: temperature === undefined ? undefined : device.tensor("f32", [rows], fill(temperature)),
    topK: topK === undefined ? undefined : device.tensor("i32", [rows], Int32Array.from(fill(topK))),
    topP: topP === undefined ? undefined : device.tensor("f32", [rows], fill(topP)),
  };
}

const cases: readonly Settings[] = [
  {},
  { temperature: 0 },
  { temperature: 0.7 },
  { temperature: 5 },
  { temperature: 0.05, topK: 50 },
  { topK: 1 },
  { topK: 5 },
  { topK: 5000 },
  { topP: 0.9 },
  { topP: 0.1, temperature: 2 },
  { topP: 0 },
  { temperature: 1.3, topK: 40, topP: 0.95 },
];

eachKernel((device) => {
  for (const dtype of floatTypes) {
    test(`${dtype}: tokens are those of the documented procedure`, async () => {
      let close = 0;
      let draws = 0;
      for (const vocab of [1, 7, 255, 1000]) {
        const rows = 40;
        // Coarse steps make ties, whose order is part of the law.
        const logits = matrix(
          device,
          dtype,
          rows,
          vocab,
          normals(vocab, rows * vocab, 2).map((x) => Math.round(x * 16) / 16),
          3,
        );
        const values = await logits.readFloats();
        const seeds = Int32Array.from({ length: rows }, (_, row) => row * 7919 - 100);
        const steps = Int32Array.from({ length: rows }, (_, row) => row % 5);
        for (const settings of cases) {
          const out = device.empty("i32", [rows]);
          const [seed, step] = [device.tensor("i32", [rows], seeds), device.tensor("i32", [rows], steps)];
          sample(device.stream, { logits, ...vectors(device, rows, settings), seed, step, out });
          for (const [row, token] of (await out.read()).entries()) {
            const line = values.subarray(row * vocab, (row + 1) * vocab);
            const want = reference(line, settings, seeds[row] as number, steps[row] as number);
            draws++;
            if (want.close) close++;
            else expect(token, `row ${row}, vocab ${vocab}, seed ${vocab}, ${JSON.stringify(settings)}`).toBe(want.token);
          }
        }
      }
      expect(close / draws).toBeLessThan(0.05);
    });
  }

  test("frequencies follow the softmax (chi-square over 15 degrees of freedom)", async () => {
    const [rows, vocab] = [8192, 16];
    const line = normals(77, vocab, 1);
    const values = new Float32Array(rows * vocab);
    for (let row = 0; row < rows; row++) values.set(line, row * vocab);
    const out = device.empty("i32", [rows]);
    const seed = device.tensor("i32", [rows], new Int32Array(rows).fill(123));
    const step = device.tensor(
      "i32",
      [rows],
      Int32Array.from({ length: rows }, (_, row) => row),
    );
    sample(device.stream, { logits: device.tensor("f32", [rows, vocab], values), seed, step, out });
    const counts = new Array<number>(vocab).fill(0);
    for (const token of await out.read()) counts[token] = (counts[token] as number) + 1;
    const mass = line.reduce((sum, x) => sum + Math.exp(x), 0);
    const chi = counts.reduce((sum, count, i) => {
      const expected = (rows * Math.exp(line[i] as number)) / mass;
      return sum + (count - expected) ** 2 / expected;
    }, 0);
    expect(chi, `seed 123, counts ${counts}`).toBeLessThan(44.3); // exceeded with probability 1e-4
  });

  test("infinite logits: -inf is never drawn, +inf takes all, ties share", async () => {
    const [low, high] = [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
    const rows = 64;
    const values = new Float32Array(rows * 5);
    for (let row = 0; row < rows; row++) values.set(row < 32 ? [low, 1, low, 1, low] : [3, high, 2, low, high], row * 5);
    const out = device.empty("i32", [rows]);
    const seed = device.tensor(
      "i32",
      [rows],
      Int32Array.from({ length: rows }, (_, row) => row),
    );
    sample(device.stream, { logits: device.tensor("f32", [rows, 5], values), seed, out });
    const tokens = [...(await out.read())];
    expect(new Set(tokens.slice(0, 32))).toEqual(new Set([1, 3]));
    expect(new Set(tokens.slice(32))).toEqual(new Set([1, 4]));
  });

  test("a row's token does not depend on its batch", async () => {
    const [rows, vocab] = [9, 3000];
    const logits = device.tensor("f32", [rows, vocab], normals(5, rows * vocab, 3));
    const seed = device.tensor(
      "i32",
      [rows],
      Int32Array.from({ length: rows }, (_, row) => row + 1),
    );
    const [all, one] = [device.empty("i32", [rows]), device.empty("i32", [1])];
    sample(device.stream, { logits, seed, out: all });
    sample(device.stream, { logits: logits.slice(4, 5), seed: seed.slice(4, 5), out: one });
    expect((await one.read())[0]).toBe((await all.read())[4]);
  });

  test("no rows, no tokens", async () => {
    const out = device.empty("i32", [0]);
    sample(device.stream, { logits: device.empty("f32", [0, 5]), out });
    expect(await out.read()).toHaveLength(0);
  });
});
