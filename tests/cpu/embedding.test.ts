import { expect, test } from "vitest";
import { embedding } from "../../lib/index.js";
import { eachKernel, floatTypes, matrix, normals } from "./numbers.js";

eachKernel((device) => {
  for (const dtype of floatTypes) {
    test(`${dtype}: rows are copied bit by bit`, async () => {
      for (const hidden of [1, 7, 64, 257]) {
        const [vocab, rows] = [100, 33];
        const table = matrix(device, dtype, vocab, hidden, normals(5, vocab * hidden), 3);
        const ids = Int32Array.from({ length: rows }, (_, i) => (i * 37) % vocab);
        const out = matrix(device, dtype, rows, hidden, new Float32Array(rows * hidden), 1);
        embedding(device.stream, { ids: device.tensor("i32", [rows], ids), table, out });
        const [bits, got] = await Promise.all([table.read(), out.read()]);
        for (const [row, id] of ids.entries()) {
          expect(got.slice(row * hidden, (row + 1) * hidden), `row ${row}`).toEqual(bits.slice(id * hidden, (id + 1) * hidden));
        }
      }
    });
  }

  test("no ids, no rows", async () => {
    const out = device.empty("f32", [0, 4]);
    embedding(device.stream, { ids: device.empty("i32", [0]), table: device.zeros("f32", [3, 4]), out });
    expect(await out.readFloats()).toHaveLength(0);
  });
});
