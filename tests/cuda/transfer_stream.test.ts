/** The laws of transfer streams on CUDA with pinned host memory, and what only a GPU has: unpinned memory, recordings, the choice of a path. */
import { afterAll, describe, expect, test } from "vitest";
import { type CopyPath, allocateHostTensor, isPinned, measureTransferPaths, openDevice } from "../../lib/index.js";
import { onBackend } from "../device.js";
import { expectError } from "../expect_error.js";
import { transferSuite } from "../transfer_cases.js";

onBackend("cuda", (device) => {
  const cpu = openDevice("cpu");
  afterAll(() => cpu.dispose());
  transferSuite(device, cpu);

  describe("host memory that is not pinned", () => {
    const slots = Int32Array.of(3, 0, 2, 1);

    test("passes through staging by dma and auto, in both directions", async () => {
      using host = cpu.tensor(
        "i32",
        [4, 300],
        Array.from({ length: 1200 }, (_, i) => i),
      );
      using back = cpu.zeros("i32", [4, 300]);
      await cpu.stream.finished();
      expect(isPinned(host)).toBe(false);
      using pages = device.zeros("i32", [4, 300]);
      await device.stream.finished();
      using stream = device.createTransferStream();
      for (const path of ["dma", "auto"] as const) {
        stream.copyPages({ to: pages, toSlots: slots, from: host, fromSlots: Int32Array.of(0, 1, 2, 3), path });
        expect(
          await stream.copyPages({ to: back, toSlots: Int32Array.of(0, 1, 2, 3), from: pages, fromSlots: slots, path }).done,
        ).toBe("done");
        expect(Array.from(await back.read())).toEqual(Array.from(await host.read()));
        back.fill(0);
        await cpu.stream.finished();
      }
    });

    test.each(["batch", "kernel"] satisfies CopyPath[])("is refused by the path %s, and the stream goes on", async (path) => {
      using host = cpu.zeros("i32", [4, 300]);
      using pages = device.zeros("i32", [4, 300]);
      using event = device.createEvent();
      using stream = device.createTransferStream();
      const transfer = stream.copyPages({ to: pages, toSlots: slots, from: host, fromSlots: slots, path });
      stream.record(event);
      expect(await transfer.done).toBe("failed");
      await transfer.settled;
      expect(transfer.error?.code).toBe("ERR_KVASIR_UNSUPPORTED");
      expect(transfer.error?.message).toMatch(/pinned/);
      device.stream.wait(event);
      await device.stream.finished();
      expect(await stream.copyPages({ to: pages, toSlots: slots, from: host, fromSlots: slots, path: "dma" }).done).toBe("done");
    });

    test("is refused in a recording by name", () => {
      using host = cpu.zeros("i32", [300]);
      using there = device.zeros("i32", [300]);
      for (const record of [() => there.copyFrom(host), () => host.copyFrom(there)]) {
        expectError("ERR_KVASIR_UNSUPPORTED", ["pinned", "allocateHostTensor"], () => device.stream.program(record));
      }
    });
  });

  test("pages between slots of the device itself", async () => {
    using pages = device.tensor(
      "i32",
      [6, 2],
      Array.from({ length: 12 }, (_, i) => i),
    );
    await device.stream.finished();
    using stream = device.createTransferStream();
    for (const path of ["dma", "batch", "kernel", "auto"] as const) {
      const copy = { to: pages, toSlots: Int32Array.of(0, 5), from: pages, fromSlots: Int32Array.of(2, 3), path };
      expect(await stream.copyPages(copy).done).toBe("done");
    }
    expect(Array.from(await pages.read())).toEqual([4, 5, 2, 3, 4, 5, 6, 7, 8, 9, 6, 7]);
  });

  test("pages across the borders of what is registered at once", async () => {
    // A page of 3 MiB and some bytes straddles the chunks of 64 MiB in which memory is locked.
    const elements = (3 * 2 ** 20 + 48) / 4;
    const slots = 50;
    using host = await allocateHostTensor(cpu, "i32", [slots, elements], { pinnedFor: device });
    using pages = device.zeros("i32", [slots, elements]);
    const data = Int32Array.from({ length: slots * elements }, (_, i) => Math.imul(i, 2654435761));
    await host.write(data);
    using stream = device.createTransferStream();
    const all = Int32Array.from({ length: slots }, (_, i) => i);
    const backwards = all.slice().reverse();
    for (const path of ["dma", "batch", "kernel"] as const) {
      pages.fill(0);
      await device.stream.finished();
      expect(await stream.copyPages({ to: pages, toSlots: backwards, from: host, fromSlots: all, path }).done).toBe("done");
      for (const slot of [0, 21, 42, 49]) {
        const row = (await pages.select(slots - 1 - slot).read()) as Int32Array;
        expect(
          Buffer.compare(Buffer.from(row.buffer), Buffer.from(data.slice(slot * elements, (slot + 1) * elements).buffer)),
        ).toBe(0);
      }
    }
  });

  test("measured paths choose, for every size, what the measurement found fastest or next to it", async () => {
    const paths = await measureTransferPaths(device, cpu);
    expect(paths.measured).toBe(true);
    expect(await measureTransferPaths(device, cpu)).toBe(paths);
    for (const { direction, bytes } of paths.samples) {
      const here = paths.samples.filter((sample) => sample.direction === direction && sample.bytes === bytes);
      const chosen = here.find(({ path }) => path === paths.choose(direction, bytes, 1000));
      expect(chosen?.us).toBeLessThanOrEqual(1.05 * Math.min(...here.map(({ us }) => us)));
    }
  });
});
