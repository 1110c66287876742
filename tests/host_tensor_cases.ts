/** Laws of host tensors, on any device. */
import { expect, test } from "vitest";
import { allocateHostTensor, type Device, isPinned, openDevice } from "../lib/index.js";

/** Host memory as the device's transfers want it: pinned for CUDA; another tensor of the same device on the CPU. */
export interface Bed {
  device: Device;
  host: Device;
}

export function hostTensors(bed: Bed): void {
  test("a host tensor is an ordinary tensor, aligned, pinned for its device", async () => {
    const progress: number[] = [];
    const bytes = 200 * 2 ** 20 + 4096;
    using tensor = await allocateHostTensor(bed.host, "i32", [bytes / 4], {
      pinnedFor: bed.device,
      onProgress: (ready, total) => progress.push(ready / total),
    });
    expect(isPinned(tensor)).toBe(true);
    expect(progress.at(-1)).toBe(1);
    expect(progress.every((x, i) => x >= (progress[i - 1] ?? 0) && x <= 1)).toBe(true);
    using view = tensor.slice(bytes / 4 - 4, bytes / 4);
    await view.write(Int32Array.of(1, 2, 3, 4));
    expect(isPinned(view)).toBe(true);
    expect(Array.from(await view.read())).toEqual([1, 2, 3, 4]);
    // Across the border of two chunks of 64 MiB.
    const border = (64 * 2 ** 20) / 4;
    using around = tensor.slice(border - 1000, border + 1000);
    const data = Int32Array.from({ length: 2000 }, (_, i) => i * 3);
    await around.write(data);
    using there = bed.device.empty("i32", [2000]);
    there.copyFrom(around);
    expect(Array.from(await there.read())).toEqual(Array.from(data));
  });

  test("memory of any kind of tensor copies inside a program when it is pinned", async () => {
    using host = await allocateHostTensor(bed.host, "f32", [1000], { pinnedFor: bed.device });
    using back = await allocateHostTensor(bed.host, "f32", [1000], { pinnedFor: bed.device });
    using there = bed.device.empty("f32", [1000]);
    using program = bed.device.stream.program(() => {
      there.copyFrom(host, { stream: bed.device.stream });
      back.copyFrom(there, { stream: bed.device.stream });
    });
    for (const value of [5, 6]) {
      await host.write(new Float32Array(1000).fill(value));
      bed.device.stream.launch(program);
      await bed.device.stream.finished();
      expect((await back.readFloats()).every((x) => x === value)).toBe(true);
    }
  });

  test("an allocation that is given up leaves nothing", async () => {
    const before = bed.host.memory().allocatedBytes;
    const abort = new AbortController();
    const pending = allocateHostTensor(bed.host, "u8", [512, 2 ** 20], { pinnedFor: bed.device, signal: abort.signal });
    abort.abort(new Error("changed my mind"));
    await expect(pending).rejects.toThrow("changed my mind");
    await expect(allocateHostTensor(bed.host, "u8", [1], { signal: AbortSignal.abort(new Error("no")) })).rejects.toThrow("no");
    const failing = allocateHostTensor(bed.host, "u8", [256, 2 ** 20], {
      onProgress: () => {
        throw new Error("from the callback");
      },
    });
    await expect(failing).rejects.toThrow("from the callback");
    expect(bed.host.memory().allocatedBytes).toBe(before);
  });

  test("a host tensor outlives the device that it was pinned for", async () => {
    const device = openDevice(bed.device.backend);
    using tensor = await allocateHostTensor(bed.host, "u8", [64, 2 ** 20], { pinnedFor: device });
    await tensor.select(3).write(new Uint8Array(2 ** 20).fill(9));
    device.dispose();
    expect(((await tensor.select(3).read()) as Uint8Array)[17]).toBe(9);
    for (let i = 0; i < 500 && isPinned(tensor); i++) await new Promise((resolve) => setTimeout(resolve, 10));
    expect(isPinned(tensor)).toBe(false);
  });
}

/** `host`: the CPU device whose memory the device's transfers reach. */
