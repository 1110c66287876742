/** Measures what pages cost on each path between a device and host memory, and with that lets "auto" choose. */
import type { Device } from "./device.js";
import { KvasirError } from "./errors.js";
import { allocateHostTensor, isPinned } from "./host_tensor.js";
import { describe } from "./options.js";
import type { Tensor } from "./tensor.js";
import {
  type CopyPath,
  type PathSample,
  type TransferDirection,
  TransferPaths,
  copyPaths,
  fitAll,
  rememberPaths,
} from "./transfer_fit.js";
import type { TransferStream } from "./transfer_stream.js";

const KIB = 1024;
const MIB = 1024 * KIB;

/** Bytes of a page: a factor of 4 between them, halved where the best path changes. */
const SIZES = [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB];
/** On a GPU so much that the start of a transfer, some 100 us for a batch, does not count. */
const POOL_BYTES = { cpu: 64 * MIB, cuda: 256 * MIB };
/** Pages of one transfer: so few that all sizes together take about a second. */
const MOST_PAGES = 4096;
const REPEATS = 5;

const running = new WeakMap<Device, Promise<TransferPaths>>();

/**
 * Times transfers of a few sizes, by every path and in both directions, and fits `alpha + bytes / beta` to each; `copyPages` with the
 * path "auto" goes by it from then on. Takes about a second and 256 MiB on either side (a CPU device: less); nothing else should run meanwhile. The first
 * result is kept for the device: later calls return it.
 *
 * On a CPU device all paths are the same copy by its threads.
 *
 * @param cpu whose memory is the other side, page-locked for `device`
 * @throws (rejection) ERR_KVASIR_OUT_OF_MEMORY, ERR_KVASIR_DISPOSED, ERR_KVASIR_DEVICE_LOST, ERR_KVASIR_INVALID_ARGUMENT
 *
 * @example
 * ```ts
 * import { measureTransferPaths, openDevice } from "kvasir";
 *
 * using device = openDevice();
 * using cpu = openDevice("cpu");
 * const paths = await measureTransferPaths(device, cpu);
 * console.log(paths.fits.in.dma, paths.choose("in", 64 * 1024, 1000));
 * ```
 */
export function measureTransferPaths(device: Device, cpu: Device): Promise<TransferPaths> {
  for (const [name, value] of [
    ["device", device],
    ["cpu", cpu],
  ] as const) {
    if (typeof (value as Partial<Device> | null)?.createTransferStream === "function") continue;
    const error = new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `${name} is ${describe(value)}, expected a Device`);
    return Promise.reject(error);
  }
  let pending = running.get(device);
  if (pending === undefined) {
    pending = measure(device, device.backend === "cpu" ? device : cpu);
    running.set(device, pending);
    pending.catch(() => running.delete(device)); // the next call tries anew
  }
  return pending;
}

async function measure(device: Device, cpu: Device): Promise<TransferPaths> {
  const poolBytes = POOL_BYTES[device.backend];
  using host = await allocateHostTensor(cpu, "u8", [poolBytes], { pinnedFor: device });
  using pool = device.zeros("u8", [poolBytes]);
  await device.stream.finished();
  using stream = device.createTransferStream();
  const bed: Bed = { stream, host, pool, isPlain: device.backend === "cpu" || !isPinned(host) };
  const samples: PathSample[] = [];
  for (const direction of ["in", "out"] as const) {
    for (const bytes of SIZES) samples.push(...(await sampleAll(bed, direction, bytes)));
    for (const bytes of crossings(samples, direction)) samples.push(...(await sampleAll(bed, direction, bytes)));
  }
  const paths = new TransferPaths(fitAll(samples), samples);
  rememberPaths(device, paths);
  return paths;
}

interface Bed {
  stream: TransferStream;
  /** [bytes] each */
  host: Tensor;
  pool: Tensor;
  /** One path alone: the others are the same, or not to be had. */
  isPlain: boolean;
}

/** The middle, on a logarithmic scale, between neighbouring sizes with different fastest paths. */
function crossings(samples: readonly PathSample[], direction: TransferDirection): number[] {
  const best = SIZES.map((bytes) => {
    const here = samples.filter((sample) => sample.direction === direction && sample.bytes === bytes);
    return here.reduce((a, b) => (b.us < a.us ? b : a)).path;
  });
  return SIZES.slice(1).flatMap((bytes, i) => (best[i] === best[i + 1] ? [] : [bytes / 2]));
}

async function sampleAll(bed: Bed, direction: TransferDirection, bytes: number): Promise<PathSample[]> {
  const rows = bed.host.size / bytes;
  const count = Math.min(rows, MOST_PAGES);
  using host = bed.host.reshape([rows, bytes]);
  using pool = bed.pool.reshape([rows, bytes]);
  const [to, from] = direction === "in" ? [pool, host] : [host, pool];
  // Ascending there, descending here: no page follows another on both sides.
  const spread = Math.floor(rows / count);
  const fromSlots = Int32Array.from({ length: count }, (_, i) => i * spread);
  const toSlots = fromSlots.slice().reverse();
  const time = async (path: CopyPath): Promise<number> => {
    bed.stream.stamp(0);
    const transfer = bed.stream.copyPages({ to, toSlots, from, fromSlots, path });
    bed.stream.stamp(1);
    await bed.stream.finished();
    if ((await transfer.done) !== "done") throw transfer.error ?? new KvasirError("ERR_KVASIR_INTERNAL", `${path} did not copy`);
    return bed.stream.elapsedMicroseconds(0, 1) / count;
  };
  const used = bed.isPlain ? (["dma"] as const) : copyPaths;
  const times = new Map<CopyPath, number[]>(used.map((path) => [path, []]));
  for (let repeat = -1; repeat < REPEATS; repeat++) {
    for (const path of used) {
      const us = await time(path);
      if (repeat >= 0) times.get(path)?.push(us); // the first round warms up
    }
  }
  // The shortest: whatever else a machine does makes a copy longer, and a path that was met by it would not be chosen again.
  return copyPaths.map((path) => ({
    direction,
    path,
    bytes,
    us: Math.min(...(times.get(path) ?? (times.get("dma") as number[]))),
  }));
}
