/** What goes wrong on a device comes back as a coded error, and the process lives on. */
import { expect, test } from "vitest";
import { nativeDevice } from "../../lib/device.js";
import { type Backend, openDevice, siluMul } from "../../lib/index.js";
import { onBackend } from "../device.js";
import { expectError, expectRejection } from "../expect_error.js";

const LOST = "ERR_KVASIR_DEVICE_LOST";
const OUT_OF_MEMORY = "ERR_KVASIR_OUT_OF_MEMORY";

for (const backend of ["cpu", "cuda"] satisfies Backend[]) {
  onBackend(backend, () => {
    test("too much memory is refused, and the next call works", async () => {
      using device = openDevice(backend);
      expectError(OUT_OF_MEMORY, [/\d/], () => device.empty("u8", [2 ** 46]));
      using x = device.tensor("f32", [2], [5, 6]);
      expect(Array.from(await x.readFloats())).toEqual([5, 6]);
    });

    test("memoryLimit bounds what tensors hold at once", async () => {
      using device = openDevice(backend, { memoryLimit: 64 * 2 ** 20 });
      const first = device.zeros("u8", [40 * 2 ** 20]);
      expectError(OUT_OF_MEMORY, [/\d/], () => device.empty("u8", [40 * 2 ** 20]));
      first.dispose();
      await device.stream.finished();
      using second = device.zeros("u8", [40 * 2 ** 20]);
      expect((await second.slice(0, 2).read()).length).toBe(2);
    });

    test("memory given back by dispose is there for the next tensor, without waiting", () => {
      using device = openDevice(backend, { memoryLimit: 64 * 2 ** 20 });
      for (let i = 0; i < 30; i++) {
        using x = device.zeros("u8", [40 * 2 ** 20]);
        expect(x.size).toBe(40 * 2 ** 20);
      }
    });

    test("an asynchronous fault poisons its device and no other", async () => {
      process.env.KVASIR_DEBUG = "faults";
      const device = openDevice(backend);
      using other = openDevice("cpu", { threads: 1 });
      const x = device.zeros("f32", [1, 8]);
      await device.stream.finished();
      nativeDevice(device).injectFault();
      await expectRejection(LOST, [/\w/], device.stream.finished());
      expectError(LOST, [/\w/], () => siluMul(device.stream, { gate: x, up: x, out: x }));
      expectError(LOST, [/\w/], () => device.empty("f32", [1]));
      expectError(LOST, [/\w/], () => device.check());
      await expectRejection(LOST, [/\w/], x.read());
      await expectRejection(LOST, [/\w/], device.stream.finished());
      x.dispose();
      device.dispose();
      using y = other.tensor("f32", [1, 1], [1]);
      siluMul(other.stream, { gate: y, up: y, out: y });
      expect((await y.readFloats())[0]).toBeCloseTo(1 / (1 + Math.exp(-1)), 5);
      using fresh = openDevice(backend);
      fresh.check();
    });
  });
}

test("faults are injected only when asked for", () => {
  process.env.KVASIR_DEBUG = "";
  using device = openDevice("cpu", { threads: 1 });
  expect(() => nativeDevice(device).injectFault()).toThrow();
  device.check();
});
