/** Transfers in flight while their process, worker, device or stream ends. Scripts speak to the addon itself, so that they need no build. */
import { spawnSync } from "node:child_process";
import { Worker } from "node:worker_threads";
import { describe, expect, test } from "vitest";
import { nativeDevice } from "../../lib/device.js";
import { allocateHostTensor, openDevice } from "../../lib/index.js";
import { addonPath } from "../../lib/native.js";
import { onBackend } from "../device.js";
import { expectError } from "../expect_error.js";

/** Defines `load`: a device, transfer streams and `busy()`, which enqueues gigabytes behind each other and an event across them. */
const prelude = `
const load = (path, backend) => {
  const addon = require(path);
  const cpu = addon.openDevice("cpu", 0, 2, 0);
  const device = backend === "cpu" ? cpu : addon.openDevice(backend, 0, 0, 0);
  const [out, back, stream] = [device.createTransferStream(), device.createTransferStream(), device.createStream()];
  const slots = 64, bytes = 1 << 20, U8 = 6;
  const pages = device.createTensor(U8, [slots, bytes]);
  const { tensor: host, ready } = cpu.createHostTensor(U8, [slots, bytes], device, false, 2);
  const event = device.createEvent();
  const list = Int32Array.from({ length: slots }, (_, i) => slots - 1 - i);
  const transfers = [];
  const busy = () => {
    for (let i = 0; i < 40; i++) {
      transfers.push(out.copyPages(host, list, 0, pages, list, 0, bytes, 1));
      out.recordEvent(event);
      back.waitEvent(event);
      transfers.push(back.copyPages(pages, list, 0, host, list, 0, bytes, 2));
      back.recordEvent(event);
      stream.waitEvent(event);
      stream.fill(pages, i);
      stream.recordEvent(event);
      out.waitEvent(event);
    }
  };
  return { device, cpu, out, back, stream, host, ready, busy, transfers };
};
`;

for (const backend of ["cpu", "cuda"] as const) {
  onBackend(backend, () => {
    const path = JSON.stringify(addonPath());

    describe("a process ends with transfers in flight", () => {
      const endings: [name: string, code: string, status: number][] = [
        ["by process.exit", "process.exit(7)", 7],
        ["by an error", "process.nextTick(() => { throw new Error('ends here') })", 1],
        ["by running out of things to do", "", 0],
        ["while promises wait", "transfers.forEach((t) => t.settled.then(() => {})); setTimeout(() => process.exit(3), 20)", 3],
        ["after cancelling", "process.exitCode = transfers.some((t) => t.cancel()) ? 4 : 5", 4],
        ["after dispose of the streams", "out.dispose(); back.dispose(); stream.dispose()", 0],
        ["after dispose of both devices", "device.dispose(); cpu.dispose()", 0],
        ["after dispose of the host's device first", "cpu.dispose(); host.dispose(); device.dispose()", 0],
      ];
      test.each(endings)("%s", (_, code, status) => {
        const script = `${prelude} const { device, cpu, out, back, stream, host, ready, busy, transfers } = load(${path}, "${backend}");
          ready.then(() => { busy(); console.log("enqueued"); ${code} });`;
        const child = spawnSync(process.execPath, ["-e", script], { encoding: "utf8", timeout: 60_000 });
        expect([child.signal, child.status, child.stdout.trim()], child.stderr).toEqual([null, status, "enqueued"]);
      });

      test("while host memory is made ready", () => {
        const script = `${prelude} const { cpu, device } = load(${path}, "${backend}");
          cpu.createHostTensor(6, [512, 1 << 20], device, false, 2).ready.then(() => {}, () => {});
          setTimeout(() => process.exit(6), 10);`;
        const child = spawnSync(process.execPath, ["-e", script], { encoding: "utf8", timeout: 60_000 });
        expect([child.signal, child.status], child.stderr).toEqual([null, 6]);
      });
    });

    test("a worker that is terminated in the middle of transfers leaves the process unharmed", async () => {
      const code = `${prelude} const { busy, ready } = load(${path}, "${backend}");
        ready.then(() => { busy(); require("node:worker_threads").parentPort.postMessage("busy"); });
        setInterval(() => {}, 1000);`;
      for (let i = 0; i < 3; i++) {
        const worker = new Worker(code, { eval: true });
        await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
        await worker.terminate();
      }
      using device = openDevice(backend);
      using x = device.tensor("f32", [2], [5, 6]);
      expect(Array.from(await x.readFloats())).toEqual([5, 6]);
    });

    const slots = 32;
    const all = Int32Array.from({ length: slots }, (_, i) => i);

    test("a device that is lost fails its transfers and lets those that wait for them go on", async () => {
      process.env.KVASIR_DEBUG = "faults";
      const device = openDevice(backend);
      using cpu = openDevice("cpu", { threads: 1 });
      using host = await allocateHostTensor(backend === "cpu" ? device : cpu, "u8", [slots, 2 ** 20], { pinnedFor: device });
      const pages = device.zeros("u8", [slots, 2 ** 20]);
      await device.stream.finished();
      const stream = device.createTransferStream();
      using event = cpu.createEvent();
      const transfers = Array.from({ length: 30 }, () =>
        stream.copyPages({ to: host, toSlots: all, from: pages, fromSlots: all }),
      );
      stream.record(event);
      nativeDevice(device).injectFault();
      const outcomes = await Promise.all(transfers.map(({ done }) => done));
      await Promise.all(transfers.map(({ settled }) => settled));
      expect(outcomes.at(-1)).toBe("failed");
      expect(transfers.at(-1)?.error?.code).toBe("ERR_KVASIR_DEVICE_LOST");
      expectError("ERR_KVASIR_DEVICE_LOST", [/\w/], () =>
        stream.copyPages({ to: host, toSlots: all, from: pages, fromSlots: all }),
      );
      cpu.stream.wait(event);
      await cpu.stream.finished();
      stream.dispose();
      pages.dispose();
      device.dispose();
      process.env.KVASIR_DEBUG = "";
    });

    test("1000 transfer streams come and go, with transfers in flight", async () => {
      using device = openDevice(backend);
      using cpu = openDevice("cpu", { threads: 1 });
      using host = await allocateHostTensor(backend === "cpu" ? device : cpu, "u8", [slots, 4096], { pinnedFor: device });
      using pages = device.zeros("u8", [slots, 4096]);
      await device.stream.finished();
      const outcomes: Promise<string>[] = [];
      for (let i = 0; i < 1000; i++) {
        using stream = device.createTransferStream();
        outcomes.push(stream.copyPages({ to: host, toSlots: all, from: pages, fromSlots: all }).done);
      }
      expect(new Set(await Promise.all(outcomes))).toEqual(new Set(["done"]));
    });

    test("host tensors come and go without a trace", async () => {
      using device = openDevice(backend);
      using cpu = openDevice("cpu", { threads: 2 });
      const owner = backend === "cpu" ? device : cpu;
      for (let i = 0; i < 50; i++) {
        using tensor = await allocateHostTensor(owner, "u8", [24, 2 ** 20], { pinnedFor: device });
        if (i % 2 === 0) tensor.fill(1);
      }
      expect(owner.memory().allocatedBytes).toBe(0);
    });
  });
}
