/** Seeded inputs, and comparisons that name the worst element. Expected values are computed in float64 from what the tensor really holds. */
import { afterAll, describe, expect } from "vitest";
import { type Device, openDevice, type Tensor } from "../../lib/index.js";
import { onBackend } from "../device.js";

export type FloatType = "f32" | "f16" | "bf16";
export const floatTypes: readonly FloatType[] = ["f32", "f16", "bf16"];

/** Half the distance from 1 to the next number: the relative error of one rounding. */
export const roundoff: Readonly<Record<FloatType, number>> = { f32: 2 ** -24, f16: 2 ** -11, bf16: 2 ** -8 };
/** The absolute error of one rounding below the normal range. */
export const underflow: Readonly<Record<FloatType, number>> = { f32: 2 ** -126, f16: 2 ** -25, bf16: 2 ** -126 };

/** Uniform in [0, 1); mulberry32. */
export function uniform(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function normals(seed: number, count: number, scale = 1): Float32Array {
  const next = uniform(seed);
  return Float32Array.from(
    { length: count },
    () => scale * Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()),
  );
}

/** `[rows, width]` whose rows lie `padding` elements apart, with NaN between them. */
export function matrix(device: Device, dtype: FloatType, rows: number, width: number, values: Float32Array, padding = 0): Tensor {
  if (padding === 0) return device.tensor(dtype, [rows, width], values);
  const spread = new Float32Array(rows * (width + padding)).fill(Number.NaN);
  for (let row = 0; row < rows; row++) spread.set(values.subarray(row * width, (row + 1) * width), row * (width + padding));
  return device.tensor(dtype, [rows, width + padding], spread).view({ shape: [rows, width], strides: [width + padding, 1] });
}

/** |actual - expected| <= tolerance(i) everywhere; infinities and NaN must agree exactly. */
export function expectClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: (index: number) => number,
  what: string,
): void {
  expect(actual.length, what).toBe(expected.length);
  let worst = 0;
  let at = -1;
  for (let i = 0; i < expected.length; i++) {
    const [got, want] = [actual[i] as number, expected[i] as number];
    const share = Object.is(got, want) || got === want ? 0 : Math.abs(got - want) / tolerance(i);
    if (!(share <= worst)) [worst, at] = [Number.isNaN(share) ? Number.POSITIVE_INFINITY : share, i];
  }
  const detail = at < 0 ? "" : `element ${at} is ${actual[at]}, expected ${expected[at]} within ${tolerance(at)}`;
  expect(worst, `${what}: ${detail}`).toBeLessThanOrEqual(1);
}

/** The CPU with each instruction set that this machine has, then CUDA. */
export function eachKernel(suite: (device: Device) => void): void {
  const seen = new Set<string>();
  const before = process.env.KVASIR_ISA;
  for (const isa of ["amx", "avx512_bf16", "avx512", "avx2", "portable"]) {
    process.env.KVASIR_ISA = isa;
    const device = openDevice("cpu");
    const got = device.describe().isa;
    if (seen.has(got)) {
      device.dispose();
      continue;
    }
    seen.add(got);
    describe(`on cpu, ${got}`, () => {
      afterAll(() => device.dispose());
      suite(device);
    });
  }
  if (before === undefined) delete process.env.KVASIR_ISA;
  else process.env.KVASIR_ISA = before;
  onBackend("cuda", suite);
}
