import { describe, expect, test } from "vitest";
import { openDevice, siluMul } from "../../lib/index.js";
import { eachBackend } from "../device.js";
import { expectError, expectRejection } from "../expect_error.js";

const CODE = "ERR_KVASIR_DISPOSED";

eachBackend((device) => {
  describe("after dispose", () => {
    test("a tensor throws by name, and disposing again does nothing", async () => {
      const x = device.zeros("f32", [2, 3]);
      x.dispose();
      x.dispose();
      expect(x.disposed).toBe(true);
      using out = device.zeros("f32", [2, 3]);
      expectError(CODE, ["f32 [2, 3]"], () => siluMul(device.stream, { gate: x, up: x, out }));
      expectError(CODE, ["f32 [2, 3]"], () => x.slice(0, 1));
      expectError(CODE, ["f32 [2, 3]"], () => x.fill(0));
      expectError(CODE, ["f32 [2, 3]"], () => out.copyFrom(x));
      await expectRejection(CODE, ["f32 [2, 3]"], x.read());
      await expectRejection(CODE, ["f32 [2, 3]"], x.write([0, 0, 0, 0, 0, 0]));
      await expectRejection(CODE, ["f32 [2, 3]"], x.loadFile("/nowhere"));
    });

    test("streams, events and programs throw", async () => {
      const stream = device.createStream();
      const event = device.createEvent();
      const program = stream.program(() => undefined);
      event.dispose();
      program.dispose();
      expectError(CODE, ["Event"], () => stream.record(event));
      expectError(CODE, ["Event"], () => event.query());
      expectError(CODE, ["Program"], () => stream.launch(program));
      stream.dispose();
      for (const one of [stream, event, program]) {
        one.dispose();
        expect(one.disposed).toBe(true);
      }
      await expectRejection(CODE, ["Stream"], stream.finished());
      expectError(CODE, ["Stream"], () => stream.stamp(0));
    });

    test("work enqueued before runs to its end", async () => {
      using out = device.zeros("f32", [64, 1024]);
      const stream = device.createStream();
      using cleared = device.createEvent();
      device.stream.record(cleared);
      stream.wait(cleared);
      {
        using x = device.tensor("f32", [64, 1024], new Float32Array(65536).fill(2), { stream });
        for (let i = 0; i < 20; i++) siluMul(stream, { gate: x, up: x, out });
      }
      using done = device.createEvent();
      stream.record(done);
      stream.dispose();
      device.stream.wait(done);
      const values = await out.readFloats();
      expect(values[65535]).toBeCloseTo(4 / (1 + Math.exp(-2)), 2);
    });

    test("a view keeps the memory", async () => {
      const x = device.tensor("f32", [4], [1, 2, 3, 4]);
      using view = x.slice(1, 3);
      x.dispose();
      using other = device.tensor("f32", [4], [9, 9, 9, 9]);
      expect(Array.from(await view.readFloats())).toEqual([2, 3]);
      expect(other.size).toBe(4);
    });
  });
});

test("a disposed device, its stream and its tensors throw", async () => {
  const device = openDevice("cpu", { threads: 1 });
  const x = device.zeros("f32", [2]);
  const { stream } = device;
  device.dispose();
  device.dispose();
  expect(device.disposed).toBe(true);
  expectError(CODE, ["Device cpu:0"], () => device.empty("f32", [1]));
  expectError(CODE, ["Device cpu:0"], () => device.memory());
  expectError(CODE, ["Device cpu:0"], () => device.createStream());
  expectError(CODE, ["disposed"], () => x.fill(0));
  await expectRejection(CODE, ["disposed"], x.read());
  await expectRejection(CODE, ["disposed"], stream.finished());
  x.dispose();
});
