import { expect, test } from "vitest";
import { type Device, linear } from "../../lib/index.js";
import { eachKernel, expectClose, type FloatType, floatTypes, matrix, normals, roundoff, underflow } from "./numbers.js";

interface Shape {
  rows: number;
  out: number;
  depth: number;
  padding?: number;
  bias?: boolean;
}

const shapes: readonly Shape[] = [
  { rows: 1, out: 1, depth: 1 },
  { rows: 1, out: 7, depth: 255, bias: true },
  { rows: 6, out: 33, depth: 1000, padding: 3 },
  { rows: 7, out: 255, depth: 257, bias: true, padding: 5 },
  { rows: 13, out: 64, depth: 256 },
  { rows: 97, out: 131, depth: 640, bias: true },
  { rows: 255, out: 66, depth: 1031 },
  { rows: 3, out: 5, depth: 0, bias: true },
  { rows: 0, out: 4, depth: 8 },
];

async function check(
  device: Device,
  dtype: FloatType,
  outType: FloatType,
  shape: Shape,
  scale: number,
  seed: number,
): Promise<void> {
  const { rows, out: columns, depth, padding = 0 } = shape;
  const x = matrix(device, dtype, rows, depth, normals(seed, rows * depth, scale), padding);
  const weight = matrix(device, dtype, columns, depth, normals(seed + 1, columns * depth), 2 * padding);
  const bias = shape.bias === true ? device.tensor(dtype, [columns], normals(seed + 2, columns, scale)) : undefined;
  const out = matrix(device, outType, rows, columns, new Float32Array(rows * columns), padding);
  linear(device.stream, { x, weight, bias, out });
  const [xs, ws, bs, got] = await Promise.all([x.readFloats(), weight.readFloats(), bias?.readFloats(), out.readFloats()]);
  const want = new Float64Array(rows * columns);
  const size = new Float64Array(rows * columns); // of the terms
  for (let m = 0; m < rows; m++) {
    for (let n = 0; n < columns; n++) {
      let sum = bs?.[n] ?? 0;
      let absolute = Math.abs(sum);
      for (let k = 0; k < depth; k++) {
        const product = (xs[m * depth + k] as number) * (ws[n * depth + k] as number);
        sum += product;
        absolute += Math.abs(product);
      }
      want[m * columns + n] = sum;
      size[m * columns + n] = absolute;
    }
  }
  // Rounding errors of a float32 sum add up like a random walk; then one rounding to the output's dtype.
  const walk = 2 ** -24 * (4 + 4 * Math.sqrt(depth));
  const tolerance = (i: number): number =>
    walk * (size[i] as number) + roundoff[outType] * Math.abs(want[i] as number) * (1 + walk) + underflow[outType];
  expectClose(got, want, tolerance, `linear ${dtype} -> ${outType} ${JSON.stringify(shape)}, scale ${scale}, seed ${seed}`);
}

eachKernel((device) => {
  for (const dtype of floatTypes) {
    test(`${dtype}: x · weightᵀ + bias is the float64 product to rounding`, async () => {
      for (const [i, shape] of shapes.entries()) {
        await check(device, dtype, dtype, shape, 1, 100 + 10 * i);
        await check(device, dtype, "f32", shape, 1, 500 + 10 * i);
      }
      await check(device, dtype, "f32", { rows: 5, out: 9, depth: 257 }, 1e3, 900);
      await check(device, dtype, "f32", { rows: 5, out: 9, depth: 257 }, 1e-3, 910);
    });

    test(`${dtype}: with batchInvariant a row has the same bits alone and in any batch`, async () => {
      const [rows, columns, depth] = [103, 70, 700];
      const x = device.tensor(dtype, [rows, depth], normals(31, rows * depth));
      const weight = device.tensor(dtype, [columns, depth], normals(32, columns * depth));
      const all = device.empty(dtype, [rows, columns]);
      linear(device.stream, { x, weight, out: all, batchInvariant: true });
      const whole = await all.read();
      for (const [begin, end] of [
        [0, 1],
        [41, 47],
        [50, 63],
        [102, 103],
      ] as const) {
        const part = device.empty(dtype, [end - begin, columns]);
        linear(device.stream, { x: x.slice(begin, end), weight, out: part, batchInvariant: true });
        expect(await part.read(), `rows ${begin} to ${end}`).toEqual(whole.slice(begin * columns, end * columns));
      }
    });
  }
});
