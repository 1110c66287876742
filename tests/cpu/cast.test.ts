import { expect, test } from "vitest";
import { cast, type DType } from "../../lib/index.js";
import { eachKernel, normals } from "./numbers.js";

/** Formats by their parameters: precision in bits, smallest exponent, largest number, and whether overflow is infinite. */
const formats = {
  f16: { precision: 11, minExponent: -14, largest: 65504, infinite: true },
  bf16: { precision: 8, minExponent: -126, largest: 2 ** 128 * (1 - 2 ** -8), infinite: true },
  f8e4m3: { precision: 4, minExponent: -6, largest: 448, infinite: false },
  f8e5m2: { precision: 3, minExponent: -14, largest: 57344, infinite: true },
} as const;

/** Round to nearest, ties to even, in float64, where all of these are exact. */
function round(x: number, { precision, minExponent, largest, infinite }: (typeof formats)[keyof typeof formats]): number {
  if (Number.isNaN(x) || x === 0) return x;
  const magnitude = Math.abs(x);
  const exponent = Math.max(Math.floor(Math.log2(Math.min(magnitude, 2 ** 128))), minExponent);
  const unit = 2 ** (exponent - precision + 1);
  const scaled = magnitude / unit;
  const floor = Math.floor(scaled);
  const up = scaled - floor > 0.5 || (scaled - floor === 0.5 && floor % 2 === 1);
  const rounded = (floor + (up ? 1 : 0)) * unit;
  const bounded = rounded > largest ? (infinite ? Number.POSITIVE_INFINITY : largest) : rounded;
  return Math.sign(x) * bounded;
}

function samples(): Float32Array {
  const values: number[] = [0, -0, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN];
  for (const { precision, minExponent, largest } of Object.values(formats)) {
    for (let exponent = minExponent - precision - 1; exponent <= Math.min(minExponent + 40, 127); exponent++) {
      for (const fraction of [
        1,
        1.0625,
        1.125,
        1.25,
        1.5,
        1.75,
        1.875,
        1 + 2 ** -11,
        1 + 3 * 2 ** -11,
        2 - 2 ** -9,
        2 - 2 ** -12,
      ]) {
        values.push(fraction * 2 ** exponent, -fraction * 2 ** exponent);
      }
    }
    values.push(largest, -largest, Math.fround(largest * 1.01), Math.fround(largest * 1.1));
  }
  for (const [i, scale] of [1e-6, 1e-2, 1, 300, 5e4].entries()) values.push(...normals(i, 700, scale));
  return Float32Array.from(values);
}

eachKernel((device) => {
  for (const [dtype, format] of Object.entries(formats) as [keyof typeof formats, (typeof formats)[keyof typeof formats]][]) {
    test(`f32 -> ${dtype} rounds to nearest even, and back is exact`, async () => {
      const values = samples();
      const x = device.tensor("f32", [values.length], values);
      const narrow = device.empty(dtype, [values.length]);
      const wide = device.empty("f32", [values.length]);
      cast(device.stream, { x, out: narrow });
      cast(device.stream, { x: narrow, out: wide });
      const got = await wide.readFloats();
      for (let i = 0; i < values.length; i++) {
        const want = round(values[i] as number, format);
        if (!Object.is(got[i], want)) expect(got[i], `${dtype} of ${values[i]}, element ${i}`).toBe(want);
      }
    });

    test(`every ${dtype} number survives the way through f32`, async () => {
      const count = dtype.startsWith("f8") ? 256 : 65536;
      const bits = (count === 256 ? new Uint8Array(count) : new Uint16Array(count)).map((_, i) => i);
      const x = device.tensor(dtype, [count], bits);
      const [wide, back] = [device.empty("f32", [count]), device.empty(dtype, [count])];
      cast(device.stream, { x, out: wide });
      cast(device.stream, { x: wide, out: back });
      const [floats, got] = await Promise.all([wide.readFloats(), back.read()]);
      for (let i = 0; i < count; i++) {
        if (!Number.isNaN(floats[i]) && got[i] !== bits[i]) expect(got[i], `${floats[i]}`).toBe(bits[i]);
      }
    });
  }

  test("any outer strides, ranks 1 to 4, odd sizes", async () => {
    for (const to of ["f32", "f16", "f8e5m2"] as const satisfies readonly DType[]) {
      // Small integers are exact in each of these.
      const values = Float32Array.from({ length: 3 * 5 * 7 * 9 }, (_, i) => (i % 9) - 4);
      const x = device.tensor("bf16", [3, 5, 7, 9], values).view({ shape: [7, 5, 3, 8], strides: [9, 63, 315, 1] });
      const out = device.empty(to, [7, 5, 4, 11]).view({ shape: [7, 5, 3, 8], strides: [220, 44, 11, 1] });
      cast(device.stream, { x, out });
      expect(await out.readFloats(), to).toEqual(await x.readFloats());
    }
    for (const size of [0, 1, 7, 255, 257, 1000, 5001]) {
      const x = device.tensor("f32", [size], normals(size, size));
      const out = device.empty("f32", [size]);
      cast(device.stream, { x, out });
      expect(await out.readFloats()).toEqual(await x.readFloats());
    }
  });

  test("i32 is copied, whatever its layout", async () => {
    const x = device.tensor("i32", [2, 3], Int32Array.of(1, -2, 2147483647, -2147483648, 16777217, 0));
    const out = device.empty("i32", [2, 5]).view({ shape: [2, 3], strides: [5, 1] });
    cast(device.stream, { x, out });
    expect([...(await out.read())]).toEqual([1, -2, 2147483647, -2147483648, 16777217, 0]);
  });
});
