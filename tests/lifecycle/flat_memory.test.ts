/** Creating and disposing leaves nothing behind: not in the pool, not in the process. */
import { expect, test } from "vitest";
import { type Device, openDevice, siluMul } from "../../lib/index.js";
import { eachBackend } from "../device.js";

const MB = 2 ** 20;

/** One of everything, used and given back while its work may still be queued. */
function cycle(device: Device): void {
  using stream = device.createStream();
  using event = device.createEvent();
  using x = device.tensor("f32", [4, 1024], new Float32Array(4096), { stream });
  using out = device.empty("f32", [4, 1024]);
  using half = x.slice(0, 2);
  using firstHalf = out.slice(0, 2);
  using program = stream.program(() => siluMul(stream, { gate: half, up: half, out: firstHalf }));
  stream.launch(program);
  stream.record(event);
  device.stream.wait(event);
}

eachBackend((device) => {
  test("10 000 cycles of streams, events, tensors and programs", async () => {
    const cycles = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i++) {
        cycle(device);
        if (i % 50 === 49) await device.stream.finished();
      }
      await device.stream.finished();
    };
    const before = device.memory().allocatedBytes;
    await cycles(2000);
    const reserved = device.memory().reservedBytes;
    const resident = process.memoryUsage().rss;
    await cycles(8000);
    expect(device.memory().allocatedBytes).toBe(before);
    expect(device.memory().reservedBytes).toBeLessThanOrEqual(reserved + 4 * MB);
    expect((process.memoryUsage().rss - resident) / MB).toBeLessThan(48);
  });
});

test("200 devices", async () => {
  const open = async (count: number): Promise<void> => {
    for (let i = 0; i < count; i++) {
      using device = openDevice("cpu", { threads: 2 });
      using x = device.zeros("f32", [1 << 18]);
      x.fill(1);
      if (i % 10 === 0) await device.stream.finished();
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  };
  await open(50);
  const resident = process.memoryUsage().rss;
  await open(150);
  expect((process.memoryUsage().rss - resident) / MB).toBeLessThan(48);
});

test("memory that tensors gave back is used again, and trim returns it", async () => {
  using device = openDevice("cpu", { threads: 1 });
  for (let i = 0; i < 20; i++) {
    using x = device.zeros("u8", [8 * MB]);
    expect(x.bytes).toBe(8 * MB);
    await device.stream.finished();
  }
  expect(device.memory().allocatedBytes).toBe(0);
  expect(device.memory().reservedBytes).toBeLessThan(40 * MB);
  device.trim();
  expect(device.memory().reservedBytes).toBeLessThan(8 * MB);
});
