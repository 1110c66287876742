/** The addon in worker threads and in processes that end while it works. Scripts speak to the addon itself, so that they need no build. */
import { spawnSync } from "node:child_process";
import { Worker } from "node:worker_threads";
import { describe, expect, test } from "vitest";
import { addonPath } from "../../lib/native.js";
import { onBackend } from "../device.js";

/** Defines `load`: device, stream, and `busy()`, which enqueues a second of work or more. */
const prelude = `
const load = (path, backend) => {
  const addon = require(path);
  const device = addon.openDevice(backend, 0, backend === "cpu" ? 2 : 0, 0);
  const stream = device.createStream();
  const n = backend === "cpu" ? 1024 : 8192;
  const x = device.createTensor(0, [n, n]), out = device.createTensor(0, [n, n]);
  stream.fill(x, 0);
  const op = addon.opNames.indexOf("linear");
  const linear = (args) => stream.enqueue(op, ...addon.opFields[op].map((field) => args[field]));
  const busy = () => { for (let i = 0; i < 40; i++) linear({ x, weight: x, out }); };
  return { device, stream, linear, busy };
};
`;

for (const backend of ["cpu", "cuda"] as const) {
  onBackend(backend, () => {
    const path = JSON.stringify(addonPath());

    describe("a process ends with work in flight", () => {
      const endings: [name: string, code: string, status: number][] = [
        ["by process.exit", "process.exit(7)", 7],
        ["by an error", "throw new Error('ends here')", 1],
        ["by running out of things to do", "", 0],
        ["while a promise waits", "stream.finished().catch(() => {}); setTimeout(() => process.exit(3), 20)", 3],
        ["after dispose", "device.dispose(); stream.dispose()", 0],
        ["while it records", "stream.beginRecording(); busy()", 0],
      ];
      test.each(endings)("%s", (_, code, status) => {
        const script = `${prelude} const { device, stream, busy } = load(${path}, "${backend}"); busy(); console.log("enqueued"); ${code}`;
        const child = spawnSync(process.execPath, ["-e", script], { encoding: "utf8", timeout: 60_000 });
        expect([child.signal, child.status, child.stdout.trim()], child.stderr).toEqual([null, status, "enqueued"]);
      });
    });

    describe("worker threads", () => {
      const work = `${prelude}
        const { parentPort, workerData } = require("node:worker_threads");
        const { device, stream, linear } = load(workerData.path, "${backend}");
        const x = device.createTensor(0, [1, 2]), weight = device.createTensor(0, [1, 2]), out = device.createTensor(0, [1, 1]);
        (async () => {
          const sums = [];
          for (let i = 0; i < 200; i++) {
            await Promise.all([stream.write(x, Float32Array.of(i, workerData.salt)), stream.write(weight, Float32Array.of(1, 1))]);
            linear({ x, weight, out });
            sums.push(new Float32Array(await stream.read(out))[0]);
          }
          device.dispose();
          parentPort.postMessage(sums);
        })();`;
      const start = (salt: number): Promise<number[]> =>
        new Promise((resolve, reject) => {
          const worker = new Worker(work, { eval: true, workerData: { path: addonPath(), salt } });
          worker.once("message", resolve);
          worker.once("error", reject);
          worker.once("exit", (code) => reject(new Error(`the worker ended with ${code} before it answered`)));
        });

      test("two at once give their own results", async () => {
        const [a, b] = await Promise.all([start(1000), start(2000)]);
        expect(a).toEqual(Array.from({ length: 200 }, (_, i) => i + 1000));
        expect(b).toEqual(Array.from({ length: 200 }, (_, i) => i + 2000));
      });

      test("one that is terminated in the middle leaves the others unharmed", async () => {
        const code = `${prelude} const { busy } = load(${path}, "${backend}"); busy();
          require("node:worker_threads").parentPort.postMessage("busy"); setInterval(() => {}, 1000);`;
        const worker = new Worker(code, { eval: true });
        await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
        await worker.terminate();
        expect((await start(5))[199]).toBe(204);
      });
    });
  });
}
