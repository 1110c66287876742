/** append and rope, on any device: what lands where, rotated by how much. */
import { expect, test } from "vitest";
import { type DType, type Device, append, dtypeBytes, rope } from "../lib/index.js";
import { random } from "./attention_cases.js";

const seed = Number(process.env.KVASIR_TEST_SEED ?? Date.now() % 1_000_000);

interface Shape {
  dtype: DType;
  total: number;
  qoHeads: number;
  kvHeads: number;
  dim: number;
  rotary: number;
  pageSize: number;
  scale: number;
}

const shapes: readonly Shape[] = [
  { dtype: "f32", total: 40, qoHeads: 4, kvHeads: 2, dim: 64, rotary: 64, pageSize: 16, scale: 1 },
  { dtype: "f16", total: 9, qoHeads: 8, kvHeads: 1, dim: 96, rotary: 48, pageSize: 64, scale: 1 },
  { dtype: "bf16", total: 70, qoHeads: 3, kvHeads: 3, dim: 128, rotary: 128, pageSize: 64, scale: 1.2 },
  { dtype: "bf16", total: 1, qoHeads: 16, kvHeads: 2, dim: 80, rotary: 80, pageSize: 16, scale: 1 },
];

/** Relative spacing of a dtype, once for a rounding up. */
const spacing: Partial<Record<DType, number>> = { f32: 2 ** -21, f16: 2 ** -11, bf16: 2 ** -8 };

const frequencies = (half: number): Float32Array => Float32Array.from({ length: half }, (_, i) => 1e4 ** (-i / half));

/** x [heads][dim] of one token rotated by its position: the angle is rounded to f32, all else is float64. */
function rotated(x: Float32Array, dim: number, position: number, invFreq: Float32Array, scale: number): Float64Array {
  const out = Float64Array.from(x);
  const half = invFreq.length;
  for (let head = 0; head < x.length; head += dim) {
    for (let i = 0; i < half; i += 1) {
      const angle = Math.fround(position * invFreq[i]!);
      const [c, s] = [Math.cos(angle) * scale, Math.sin(angle) * scale];
      const [a, b] = [x[head + i]!, x[head + i + half]!];
      out[head + i] = a * c - b * s;
      out[head + i + half] = b * c + a * s;
    }
  }
  return out;
}

function expectClose(what: string, actual: Float32Array, wanted: ArrayLike<number>, dtype: DType): void {
  expect(actual.length).toBe(wanted.length);
  for (let i = 0; i < wanted.length; i += 1) {
    const within = spacing[dtype]! * 4; // inputs are within [-2, 2]
    if (Math.abs(actual[i]! - wanted[i]!) <= within) continue;
    expect.fail(`${what}[${i}] is ${actual[i]}, expected ${wanted[i]} within ${within}; KVASIR_TEST_SEED=${seed}`);
  }
}

async function appended(device: Device, s: Shape, options: { rotate: boolean; storeRotated?: boolean | undefined }) {
  const draw = random(seed);
  const values = (n: number) => Float32Array.from({ length: n }, () => 2 * draw() - 1);
  const slots = Math.ceil((2 * s.total) / s.pageSize) + 1;
  const run = s.pageSize * s.dim;
  const pageElements = 2 * s.kvHeads * run + 16;
  const bytes = dtypeBytes[s.dtype];
  const places = Array.from({ length: slots * s.pageSize }, (_, i) => i).sort(() => draw() - 0.5);
  const mapping = Int32Array.from({ length: s.total }, (_, t) => (t % 5 === 3 ? -1 : places[t]!));
  const at = Int32Array.from({ length: s.total }, (_, t) => (t % 7 === 6 ? 131_071 : 3 * t));
  // V of each head lies before its K: the offsets are what counts.
  const offsets = Array.from({ length: s.kvHeads }, (_, h) => [(2 * h + 1) * run * bytes, 2 * h * run * bytes]).flat();

  using k = device.tensor(s.dtype, [s.total, s.kvHeads, s.dim], values(s.total * s.kvHeads * s.dim));
  using v = device.tensor(s.dtype, [s.total, s.kvHeads, s.dim], values(s.total * s.kvHeads * s.dim));
  using q = device.tensor(s.dtype, [s.total, s.qoHeads, s.dim], values(s.total * s.qoHeads * s.dim));
  using pages = device.empty(s.dtype, [slots, pageElements]);
  using pageOffsets = device.tensor("i32", [s.kvHeads, 2], offsets);
  using positions = device.tensor("i32", [s.total], at);
  using slotMapping = device.tensor("i32", [s.total], mapping);
  using invFreq = device.tensor("f32", [s.rotary / 2], frequencies(s.rotary / 2));
  pages.fill(0);
  const before = { q: await q.readFloats(), k: await k.readFloats(), v: await v.readFloats() };
  const rotation = options.rotate ? { q, invFreq, ropeScale: s.scale, storeRotated: options.storeRotated } : {};
  append(device.stream, { k, v, positions, slotMapping, pages, pageOffsets, pageSize: s.pageSize, ...rotation });
  const after = { q: await q.readFloats(), pages: await pages.readFloats() };
  /** The K or V of token t and head h as it now lies in the pages. */
  const stored = (side: "k" | "v", t: number, h: number): Float32Array => {
    const slot = mapping[t]!;
    const within = offsets[2 * h + (side === "k" ? 0 : 1)]! / bytes;
    const start = Math.floor(slot / s.pageSize) * pageElements + within + (slot % s.pageSize) * s.dim;
    return after.pages.slice(start, start + s.dim);
  };
  return { before, after, stored, mapping, at };
}

export function appendSuite(device: Device): void {
  test.each(shapes)("rotates and stores $dtype, head_dim $dim, rotary_dim $rotary, page $pageSize", async (s) => {
    const { before, after, stored, mapping, at } = await appended(device, s, { rotate: true });
    const invFreq = frequencies(s.rotary / 2);
    let written = 0;
    for (let t = 0; t < s.total; t += 1) {
      const width = s.qoHeads * s.dim;
      const q = before.q.subarray(t * width, (t + 1) * width);
      expectClose("q", after.q.subarray(t * width, (t + 1) * width), rotated(q, s.dim, at[t]!, invFreq, s.scale), s.dtype);
      if (mapping[t]! < 0) continue;
      for (let h = 0; h < s.kvHeads; h += 1) {
        const from = (t * s.kvHeads + h) * s.dim;
        expectClose(
          "k",
          stored("k", t, h),
          rotated(before.k.slice(from, from + s.dim), s.dim, at[t]!, invFreq, s.scale),
          s.dtype,
        );
        expect(stored("v", t, h)).toEqual(before.v.slice(from, from + s.dim));
        written += 2 * s.dim;
      }
    }
    // Nothing else was touched: the rest of the pages is still 0 (a stored value may be 0 as well).
    expect(after.pages.reduce((count, x) => count + (x === 0 ? 0 : 1), 0)).toBeLessThanOrEqual(written);
  });

  test.each([{ storeRotated: false }, { rotate: false }])("stores keys as they are with %o", async (options) => {
    for (const s of shapes) {
      const rotate = options.rotate ?? true;
      const { before, after, stored, mapping } = await appended(device, s, { rotate, storeRotated: options.storeRotated });
      for (let t = 0; t < s.total; t += 1) {
        for (let h = 0; h < s.kvHeads && mapping[t]! >= 0; h += 1) {
          const from = (t * s.kvHeads + h) * s.dim;
          expect(stored("k", t, h)).toEqual(before.k.slice(from, from + s.dim));
        }
      }
      const turned = after.q.some((x, i) => x !== before.q[i]);
      expect(turned).toBe(rotate && (s.total > 1 || s.scale !== 1)); // position 0 alone turns nothing
    }
  });

  test.each(shapes)("rope rotates in place: $dtype, rotary_dim $rotary of $dim", async (s) => {
    const draw = random(seed + 1);
    const data = Float32Array.from({ length: s.total * s.qoHeads * s.dim }, () => 2 * draw() - 1);
    const at = Int32Array.from({ length: s.total }, () => Math.floor(draw() * 200_000));
    using x = device.tensor(s.dtype, [s.total, s.qoHeads, s.dim], data);
    using positions = device.tensor("i32", [s.total], at);
    using invFreq = device.tensor("f32", [s.rotary / 2], frequencies(s.rotary / 2));
    const before = await x.readFloats();
    rope(device.stream, { x, positions, invFreq, ropeScale: s.scale });
    const after = await x.readFloats();
    const width = s.qoHeads * s.dim;
    for (let t = 0; t < s.total; t += 1) {
      const token = before.subarray(t * width, (t + 1) * width);
      const wanted = rotated(token, s.dim, at[t]!, frequencies(s.rotary / 2), s.scale);
      expectClose("x", after.subarray(t * width, (t + 1) * width), wanted, s.dtype);
    }
  });
}
