import { expect, test } from "vitest";
import { rmsNorm } from "../../lib/index.js";
import { eachKernel, expectClose, floatTypes, matrix, normals, roundoff, underflow } from "./numbers.js";

eachKernel((device) => {
  for (const dtype of floatTypes) {
    test(`${dtype}: out = x / sqrt(mean(x²) + eps) * weight, with and without a residual`, async () => {
      const seed = 7;
      for (const [rows, hidden] of [
        [1, 1],
        [7, 255],
        [3, 257],
        [2, 1000],
        [5, 64],
        [1, 16384],
        [0, 32],
      ] as const) {
        for (const scale of [1, 1e-2, 1e3]) {
          for (const residual of [false, true]) {
            const what = `rms_norm ${dtype} [${rows}, ${hidden}] scale ${scale} residual ${residual}, seed ${seed}`;
            const x = matrix(device, dtype, rows, hidden, normals(seed, rows * hidden, scale), 3);
            const weight = device.tensor(dtype, [hidden], normals(seed + 1, hidden));
            const stream = matrix(device, dtype, rows, hidden, normals(seed + 2, rows * hidden, scale), 2);
            const before = await stream.readFloats();
            const out = matrix(device, dtype, rows, hidden, new Float32Array(rows * hidden), 1);
            rmsNorm(device.stream, { x, weight, out, eps: 1e-5, ...(residual ? { residual: stream } : {}) });
            const [xs, ws, sums, got] = await Promise.all([
              x.readFloats(),
              weight.readFloats(),
              stream.readFloats(),
              out.readFloats(),
            ]);
            const u = roundoff[dtype];
            const input = Float64Array.from(xs, (value, i) => (residual ? value + (before[i] as number) : value));
            if (residual)
              expectClose(sums, input, (i) => u * Math.abs(input[i] as number) + underflow[dtype], `${what}, the sum`);
            else expect(sums, what).toEqual(before);
            const used = residual ? sums : xs;
            const want = new Float64Array(rows * hidden);
            for (let row = 0; row < rows; row++) {
              const values = used.subarray(row * hidden, (row + 1) * hidden);
              const mean = values.reduce((sum, value) => sum + value * value, 0) / hidden;
              for (let i = 0; i < hidden; i++) {
                want[row * hidden + i] = ((values[i] as number) / Math.sqrt(mean + 1e-5)) * (ws[i] as number);
              }
            }
            // A backend may take the norm of the sum before or after it is rounded: one more rounding of the input.
            const relative = (residual ? 3 : 1) * u + 2 ** -20;
            expectClose(
              got,
              want,
              (i) => relative * Math.abs(want[i] as number) + 2 * underflow[dtype] + (residual ? 2 * u : 0),
              what,
            );
          }
        }
      }
    });
  }

  test("out may be x", async () => {
    const values = normals(3, 4 * 100);
    const [x, other] = [device.tensor("f32", [4, 100], values), device.empty("f32", [4, 100])];
    const weight = device.tensor("f32", [100], normals(4, 100));
    rmsNorm(device.stream, { x, weight, out: other });
    rmsNorm(device.stream, { x, weight, out: x });
    expect(await x.readFloats()).toEqual(await other.readFloats());
  });
});
