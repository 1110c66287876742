/** Laws of the merge operator, on any device. */
import { expect, test } from "vitest";
import { type Device, merge } from "../lib/index.js";
import { random } from "./attention_cases.js";

const seed = Number(process.env.KVASIR_TEST_SEED ?? Date.now() % 1_000_000);

interface Parts {
  count: number;
  rows: number;
  heads: number;
  dim: number;
  /** [count, rows, heads, dim] and [count, rows, heads]. */
  out: Float32Array;
  lse: Float32Array;
}

/** Random parts; a share of them is empty: lse -Infinity, and NaN where the output would be. */
function randomParts(count: number, rows: number, heads: number, dim: number, empty = 0.2): Parts {
  const draw = random(seed + count);
  const out = Float32Array.from({ length: count * rows * heads * dim }, () => 2 * draw() - 1);
  const lse = Float32Array.from({ length: count * rows * heads }, () => 30 * draw() - 15);
  for (let i = 0; i < lse.length; i += 1) {
    if (draw() >= empty) continue;
    lse[i] = Number.NEGATIVE_INFINITY;
    out.fill(Number.NaN, i * dim, (i + 1) * dim);
  }
  return { count, rows, heads, dim, out, lse };
}

/** The operator in float64. */
function expected({ count, rows, heads, dim, out, lse }: Parts): { out: Float64Array; lse: Float64Array } {
  const width = rows * heads;
  const result = { out: new Float64Array(width * dim), lse: new Float64Array(width).fill(Number.NEGATIVE_INFINITY) };
  for (let r = 0; r < width; r += 1) {
    const parts = Array.from({ length: count }, (_, p) => p).filter((p) => lse[p * width + r] !== Number.NEGATIVE_INFINITY);
    if (parts.length === 0) continue;
    const max = Math.max(...parts.map((p) => lse[p * width + r]!));
    const total = parts.reduce((sum, p) => sum + Math.exp(lse[p * width + r]! - max), 0);
    result.lse[r] = max + Math.log(total);
    for (const p of parts) {
      const weight = Math.exp(lse[p * width + r]! - max) / total;
      for (let d = 0; d < dim; d += 1) result.out[r * dim + d]! += weight * out[(p * width + r) * dim + d]!;
    }
  }
  return result;
}

async function run(device: Device, p: Parts, dtype: "f32" | "f16" | "bf16", partsDtype: "f32" | "f16" | "bf16" = "f32") {
  using parts = device.tensor(partsDtype, [p.count, p.rows, p.heads, p.dim], p.out);
  using partsLse = device.tensor("f32", [p.count, p.rows, p.heads], p.lse);
  using out = device.empty(dtype, [p.rows, p.heads, p.dim]);
  using lse = device.empty("f32", [p.rows, p.heads]);
  out.fill(0xff);
  lse.fill(0xff);
  merge(device.stream, { parts, partsLse, out, lse });
  return { out: await out.readFloats(), lse: await lse.readFloats() };
}

function expectClose(actual: Float32Array, wanted: ArrayLike<number>, within: number): void {
  for (let i = 0; i < wanted.length; i += 1) {
    if (actual[i] === wanted[i] || Math.abs(actual[i]! - wanted[i]!) <= within) continue;
    expect.fail(`element ${i} is ${actual[i]}, expected ${wanted[i]} within ${within}; KVASIR_TEST_SEED=${seed}`);
  }
}

export function mergeSuite(device: Device): void {
  test.each([1, 2, 3, 7, 64])("%d parts are joined as their softmax would be", async (count) => {
    const parts = randomParts(count, 13, 3, 72);
    const actual = await run(device, parts, "f32");
    const wanted = expected(parts);
    expectClose(actual.out, wanted.out, 1e-5);
    expectClose(actual.lse, wanted.lse, 1e-5);
  });

  test.each(["f16", "bf16"] as const)("parts and output in %s", async (dtype) => {
    const parts = randomParts(5, 4, 2, 128);
    const exact = expected(parts).out;
    const step = dtype === "f16" ? 2 ** -11 : 2 ** -8; // half the spacing below 1, once for the parts and once for the output
    expectClose((await run(device, parts, dtype)).out, exact, step + 1e-5);
    expectClose((await run(device, parts, dtype, dtype)).out, exact, 2 * step + 1e-5);
  });

  test("the order of parts matters to rounding only", async () => {
    const parts = randomParts(6, 5, 2, 64);
    const reversed: Parts = { ...parts, out: new Float32Array(parts.out.length), lse: new Float32Array(parts.lse.length) };
    for (const side of ["out", "lse"] as const) {
      const size = parts[side].length / parts.count;
      for (let p = 0; p < parts.count; p += 1) {
        reversed[side].set(parts[side].subarray(p * size, (p + 1) * size), (parts.count - 1 - p) * size);
      }
    }
    const [a, b] = [await run(device, parts, "f32"), await run(device, reversed, "f32")];
    expectClose(a.out, b.out, 1e-6);
    expectClose(a.lse, b.lse, 1e-5);
  });

  test("merging in two steps is merging at once", async () => {
    const parts = randomParts(6, 5, 2, 64);
    const half = (from: number): Parts => {
      const cut = (x: Float32Array) => x.slice((from * x.length) / 6, ((from + 3) * x.length) / 6);
      return { ...parts, count: 3, out: cut(parts.out), lse: cut(parts.lse) };
    };
    const [left, right] = [await run(device, half(0), "f32"), await run(device, half(3), "f32")];
    const both: Parts = {
      ...parts,
      count: 2,
      out: Float32Array.from([...left.out, ...right.out]),
      lse: Float32Array.from([...left.lse, ...right.lse]),
    };
    const [twice, once] = [await run(device, both, "f32"), await run(device, parts, "f32")];
    expectClose(twice.out, once.out, 1e-6);
    expectClose(twice.lse, once.lse, 1e-5);
  });

  test("one part comes back as it was", async () => {
    const parts = randomParts(1, 6, 2, 64, 0);
    const actual = await run(device, parts, "f32");
    expect(actual.out).toEqual(parts.out);
    expect(actual.lse).toEqual(parts.lse);
  });

  test("empty parts weigh nothing, and nothing but empty parts gives 0 and -Infinity", async () => {
    const parts = randomParts(4, 3, 2, 64, 1);
    const actual = await run(device, parts, "f32");
    expect(actual.out.every((x) => x === 0)).toBe(true);
    expect(actual.lse.every((x) => x === Number.NEGATIVE_INFINITY)).toBe(true);
  });

  test("lse far apart and far out", async () => {
    const parts = randomParts(2, 1, 2, 64, 0);
    parts.lse.set([1e4, -1e4, -1e4, -1e4]);
    const actual = await run(device, parts, "f32");
    expect(actual.out.subarray(0, 64)).toEqual(parts.out.subarray(0, 64));
    expectClose(actual.out, expected(parts).out, 1e-6);
    expectClose(actual.lse, expected(parts).lse, 1e-3);
  });
}
