/** The bf16 dot product's kernel, also on machines where widening to f32 is faster and is chosen. The choice is made once a process. */
import { expect, test } from "vitest";
import { linear, openDevice } from "../../lib/index.js";
import { expectClose, matrix, normals } from "./numbers.js";

process.env.KVASIR_BF16_DOT = "1";
const device = openDevice("cpu");
const { isa } = device.describe();

test.skipIf(isa !== "avx512_bf16" && isa !== "amx")(
  `bf16 products by pairs are the float64 product to rounding (this machine: ${isa})`,
  async () => {
    for (const [rows, columns, depth, padding] of [
      [1, 9, 1000, 0],
      [6, 33, 257, 4],
      [103, 70, 700, 0],
      [20, 5, 7, 32],
    ] as const) {
      const x = matrix(device, "bf16", rows, depth, normals(depth, rows * depth), padding);
      const weight = matrix(device, "bf16", columns, depth, normals(depth + 1, columns * depth), padding);
      const out = device.empty("f32", [rows, columns]);
      linear(device.stream, { x, weight, out });
      const [xs, ws, got] = await Promise.all([x.readFloats(), weight.readFloats(), out.readFloats()]);
      const want = new Float64Array(rows * columns);
      const size = new Float64Array(rows * columns);
      for (let i = 0; i < want.length; i++) {
        const [m, n] = [Math.floor(i / columns), i % columns];
        for (let k = 0; k < depth; k++) {
          const product = (xs[m * depth + k] as number) * (ws[n * depth + k] as number);
          want[i] = (want[i] as number) + product;
          size[i] = (size[i] as number) + Math.abs(product);
        }
      }
      const walk = 2 ** -24 * (4 + 4 * Math.sqrt(depth));
      expectClose(
        got,
        want,
        (i) => walk * (size[i] as number) + 2 ** -126,
        `bf16 pairs ${rows}x${columns}x${depth}, seed ${depth}`,
      );
      const alone = device.empty("f32", [1, columns]);
      linear(device.stream, { x: x.slice(rows - 1, rows), weight, out: alone });
      expect(await alone.readFloats()).toEqual(got.slice((rows - 1) * columns));
    }
  },
);
