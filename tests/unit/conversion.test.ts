/** Conversions against a reading of the formats that shares nothing with the addon: sign, exponent and fraction by powers of two. */
import { describe, expect, test } from "vitest";
import { dtypes } from "../../lib/index.js";
import { addon } from "../../lib/native.js";

interface Format {
  name: "bf16" | "f16" | "f8e4m3" | "f8e5m2";
  exponentBits: number;
  fractionBits: number;
  hasInfinity: boolean;
}

const formats: Format[] = [
  { name: "bf16", exponentBits: 8, fractionBits: 7, hasInfinity: true },
  { name: "f16", exponentBits: 5, fractionBits: 10, hasInfinity: true },
  { name: "f8e4m3", exponentBits: 4, fractionBits: 3, hasInfinity: false },
  { name: "f8e5m2", exponentBits: 5, fractionBits: 2, hasInfinity: true },
];

const width = ({ exponentBits, fractionBits }: Format): number => 1 + exponentBits + fractionBits;

function meaning(format: Format, bits: number): number {
  const { exponentBits, fractionBits, hasInfinity } = format;
  const bias = 2 ** (exponentBits - 1) - 1;
  const sign = bits >> (exponentBits + fractionBits) === 0 ? 1 : -1;
  const exponent = (bits >> fractionBits) & (2 ** exponentBits - 1);
  const fraction = bits & (2 ** fractionBits - 1);
  const isTop = exponent === 2 ** exponentBits - 1;
  if (hasInfinity && isTop) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  if (!hasInfinity && isTop && fraction === 2 ** fractionBits - 1) return Number.NaN;
  if (exponent === 0) return sign * fraction * 2 ** (1 - bias - fractionBits);
  return sign * (1 + fraction / 2 ** fractionBits) * 2 ** (exponent - bias);
}

const arrayOf = (format: Format, values: number[]): Uint16Array | Uint8Array =>
  width(format) === 16 ? Uint16Array.from(values) : Uint8Array.from(values);
const decode = (format: Format, bits: number[]): Float32Array =>
  addon().decodeFloats(dtypes.indexOf(format.name), arrayOf(format, bits));
const encode = (format: Format, values: number[]): number[] =>
  Array.from(addon().encodeFloats(dtypes.indexOf(format.name), Float32Array.from(values)));

describe.each(formats)("$name", (format) => {
  const all = Array.from({ length: 2 ** width(format) }, (_, bits) => bits);
  const half = all.length / 2;
  const meanings = all.map((bits) => meaning(format, bits));
  const isNumber = (bits: number): boolean => !Number.isNaN(meanings[bits] as number);
  /** Positive finite values in rising order: their bits count up. */
  const finite = all.filter((bits) => bits < half && Number.isFinite(meanings[bits] as number));
  const greatest = finite.at(-1) as number;

  test("every bit pattern decodes to its meaning", () => {
    const decoded = Array.from(decode(format, all));
    const wrong = all.filter((bits) => !Object.is(decoded[bits], meanings[bits]));
    expect(wrong).toEqual([]);
  });

  test("every number encodes to its own bits, NaN to a NaN", () => {
    const encoded = encode(format, meanings);
    expect(all.filter((bits) => isNumber(bits) && encoded[bits] !== bits)).toEqual([]);
    expect(all.filter((bits) => !isNumber(bits) && isNumber(encoded[bits] as number))).toEqual([]);
  });

  test("what lies between two neighbours goes to the nearer, a tie to the even one", () => {
    const inputs: number[] = [];
    const expected: number[] = [];
    for (const low of finite.slice(0, -1)) {
      const a = meanings[low] as number;
      const b = meanings[low + 1] as number;
      const middle = a + (b - a) / 2;
      const quarter = (b - a) / 4;
      // Where float32 is no finer than the format (bf16 subnormals at the bottom) these are exact too: both have 2^-149 steps or more.
      for (const [value, bits] of [
        [middle, low % 2 === 0 ? low : low + 1],
        [middle - quarter, low],
        [middle + quarter, low + 1],
      ] as const) {
        if (Math.fround(value) !== value) continue;
        inputs.push(value, -value);
        expected.push(bits, bits + half);
      }
    }
    expect(inputs.length).toBeGreaterThan(finite.length * 4);
    const encoded = encode(format, inputs);
    expect(inputs.filter((_, i) => encoded[i] !== expected[i])).toEqual([]);
  });

  test("past the greatest value: infinite, or saturated where the format has no infinity", () => {
    const top = meanings[greatest] as number;
    const step = top - (meanings[greatest - 1] as number);
    const beyond = format.hasInfinity ? greatest + 1 : greatest;
    const [under, tie, far, infinite, negative] = encode(format, [
      top + step / 4,
      top + step / 2,
      top * (1 + 2 ** -format.fractionBits),
      Number.POSITIVE_INFINITY,
      Number.NEGATIVE_INFINITY,
    ]);
    expect([under, tie, far, infinite, negative]).toEqual([greatest, beyond, beyond, beyond, beyond + half]);
  });
});
