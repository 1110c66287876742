import { expect, test } from "vitest";
import { advance } from "../../lib/index.js";
import { eachBackend } from "../device.js";

eachBackend((device) => {
  const vector = (values: number[]) => device.tensor("i32", [values.length], Int32Array.from(values));

  test("active rows take the next slot of their page table, the others stand still", async () => {
    const kvLen = vector([0, 15, 16, 33, 5]);
    const rowStart = vector([0, 2, 4, 6, 9]);
    const pageIndices = vector([10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
    const [positions, slotMapping] = [vector([9, 9, 9, 9, 9]), vector([9, 9, 9, 9, 9])];
    const [step, active] = [vector([0, 1, 2, 3, 4]), vector([1, 1, 7, 1, 0])];
    const args = { kvLen, rowStart, pageIndices, positions, slotMapping, step, active, pageSize: 16 };
    advance(device.stream, args);
    expect([...(await positions.read())]).toEqual([0, 15, 16, 33, 0]);
    expect([...(await slotMapping.read())]).toEqual([10 * 16, 12 * 16 + 15, 15 * 16, 18 * 16 + 1, -1]);
    expect([...(await kvLen.read())]).toEqual([1, 16, 17, 34, 5]);
    expect([...(await step.read())]).toEqual([1, 2, 3, 4, 4]);
    advance(device.stream, args);
    expect([...(await positions.read())]).toEqual([1, 16, 17, 34, 0]);
    expect([...(await slotMapping.read())]).toEqual([10 * 16 + 1, 13 * 16, 15 * 16 + 1, 18 * 16 + 2, -1]);
  });

  test("without step and active, every row advances", async () => {
    const [kvLen, positions, slotMapping] = [vector([3]), vector([0]), vector([0])];
    advance(device.stream, { kvLen, rowStart: vector([1]), pageIndices: vector([0, 4]), positions, slotMapping, pageSize: 32 });
    expect([[...(await kvLen.read())], [...(await positions.read())], [...(await slotMapping.read())]]).toEqual([
      [4],
      [3],
      [4 * 32 + 3],
    ]);
  });
});
