import { test } from "vitest";
import { siluMul } from "../../lib/index.js";
import { eachKernel, expectClose, floatTypes, matrix, normals, roundoff, underflow } from "./numbers.js";

eachKernel((device) => {
  for (const dtype of floatTypes) {
    test(`${dtype}: out = gate * sigmoid(gate) * up`, async () => {
      for (const [rows, width] of [
        [1, 1],
        [7, 255],
        [2, 257],
        [1, 1000],
        [3, 5000],
        [0, 8],
      ] as const) {
        for (const scale of [1, 30, 1e-3]) {
          const seed = 11 + width;
          const gate = matrix(device, dtype, rows, width, normals(seed, rows * width, scale), 3);
          const up = matrix(device, dtype, rows, width, normals(seed + 1, rows * width), 1);
          const out = matrix(device, dtype, rows, width, new Float32Array(rows * width), 2);
          siluMul(device.stream, { gate, up, out });
          const [gates, ups, got] = await Promise.all([gate.readFloats(), up.readFloats(), out.readFloats()]);
          const want = Float64Array.from(gates, (value, i) => (value / (1 + Math.exp(-value))) * (ups[i] as number));
          const tolerance = (i: number): number =>
            (roundoff[dtype] + 2 ** -20) * Math.abs(want[i] as number) + underflow[dtype] + 1e-35;
          expectClose(got, want, tolerance, `silu_mul ${dtype} [${rows}, ${width}] scale ${scale}, seed ${seed}`);
        }
      }
    });
  }

  test("large gates pass through or vanish", async () => {
    const gate = device.tensor("f32", [1, 5], [200, -200, 1e30, -1e30, 0]);
    const up = device.tensor("f32", [1, 5], [2, 2, 2, 2, 2]);
    siluMul(device.stream, { gate, up, out: gate });
    expectClose(await gate.readFloats(), Float32Array.of(400, 0, 2e30, 0, 0), () => 1e-30, "silu_mul of large gates");
  });
});
