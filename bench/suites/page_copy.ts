/** Scattered pages between a device and host memory: every path and size in both directions, against one large copy in the same turns;
 * both directions at once; page-locking; how far a 1 ms timer lags meanwhile. On the CPU both sides are its memory, and one path is all. */
import {
  type CopyPath,
  type Device,
  type Tensor,
  type TransferDirection,
  type TransferPaths,
  type TransferStream,
  allocateHostTensor,
  measureTransferPaths,
  openDevice,
} from "../../lib/index.js";
import { summarise } from "../harness.js";
import { type Row, type SuiteOptions, type Target, noAttention } from "../results.js";
import { type CopyTimes, copyTargets, summariseCopies } from "./page_copy_targets.js";

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

type Path = CopyPath | "auto";

interface Scale {
  poolBytes: number;
  /** Of the large copy. */
  rawBytes: number;
  mostPages: number;
  samples: number;
  paths: readonly Path[];
  pinBytes: number;
  /** Moved while the timer is watched. */
  lagBytes: number;
}
const scales: Record<Device["backend"], Scale> = {
  cuda: {
    poolBytes: 4 * GIB,
    rawBytes: GIB,
    mostPages: 65_536,
    samples: 7,
    paths: ["dma", "batch", "kernel", "auto"],
    pinBytes: 8 * GIB,
    lagBytes: 10 * GIB,
  },
  cpu: {
    poolBytes: 512 * MIB,
    rawBytes: 256 * MIB,
    mostPages: 16_384,
    samples: 5,
    paths: ["dma", "auto"],
    pinBytes: GIB,
    lagBytes: 4 * GIB,
  },
};
const sizes = Array.from({ length: 13 }, (_, i) => 4 * KIB * 2 ** i);

interface Bed {
  device: Device;
  scale: Scale;
  paths: TransferPaths;
  /** [poolBytes] u8 each. */
  pool: Tensor;
  host: Tensor;
  streams: Record<TransferDirection, TransferStream>;
}

/** `count` of `rows` slots in random order. */
function shuffled(rows: number, count: number, seed: number): Int32Array {
  const slots = Int32Array.from({ length: rows }, (_, i) => i);
  let state = seed;
  for (let i = rows - 1; i > 0; i--) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    const j = state % (i + 1);
    [slots[i], slots[j]] = [slots[j] as number, slots[i] as number];
  }
  return slots.slice(0, count);
}

/** One transfer that is repeated: the same pages, by any path. */
interface Copy {
  direction: TransferDirection;
  to: Tensor;
  toSlots: Int32Array;
  from: Tensor;
  fromSlots: Int32Array;
}

/** Microseconds on the device. */
async function timed(bed: Bed, copy: Copy, path: Path): Promise<number> {
  const stream = bed.streams[copy.direction];
  const { direction: _, ...pages } = copy;
  stream.stamp(0);
  const transfer = stream.copyPages({ ...pages, path });
  stream.stamp(1);
  if ((await transfer.done) !== "done") throw transfer.error ?? new Error("the copy did not happen");
  await stream.finished();
  return stream.elapsedMicroseconds(0, 1);
}

/** Whether marks in some pages arrive where they belong. */
async function arrives(bed: Bed, copy: Copy, path: Path): Promise<boolean> {
  const picked = [0, 1, copy.toSlots.length >> 1, copy.toSlots.length - 1];
  const head = (tensor: Tensor, slot: number): Tensor => tensor.view({ offset: slot * (tensor.shape[1] as number), shape: [64] });
  const mark = (i: number): Uint8Array => Uint8Array.from({ length: 64 }, (_, b) => i * 37 + b * 5 + path.length);
  for (const i of picked) {
    using source = head(copy.from, copy.fromSlots[i] as number);
    using target = head(copy.to, copy.toSlots[i] as number);
    await Promise.all([source.write(mark(i)), target.write(new Uint8Array(64).fill(0xee))]);
  }
  await timed(bed, copy, path);
  for (const i of picked) {
    using target = head(copy.to, copy.toSlots[i] as number);
    if (Buffer.compare((await target.read()) as Uint8Array, mark(i)) !== 0) return false;
  }
  return true;
}

function rowOf(op: string, variant: string, us: readonly number[], bytes: number, ceiling: Row["ceiling"]): Row {
  const timing = summarise(us);
  const rate = bytes / timing.median_us / 1e3;
  return {
    op,
    variant,
    shape: noAttention,
    dtype: "u8",
    ...timing,
    gb_per_s: rate,
    ceiling,
    share_of_ceiling: rate / ceiling.value,
    peers: {},
    max_abs_err: 0,
    tolerance: 0,
    pass: true,
  };
}

/** All paths of one size in turns with the large copy, so that a drift meets them alike. */
async function sizeRows(bed: Bed, direction: TransferDirection, bytes: number): Promise<{ rows: Row[]; times: CopyTimes }> {
  const { scale, pool, host } = bed;
  const rows = scale.poolBytes / bytes;
  const count = Math.min(rows, scale.mostPages);
  using pages = pool.reshape([rows, bytes]);
  using hostPages = host.reshape([rows, bytes]);
  using whole = pool.reshape([scale.poolBytes / scale.rawBytes, scale.rawBytes]);
  using hostWhole = host.reshape([scale.poolBytes / scale.rawBytes, scale.rawBytes]);
  const turn = (device: Tensor, other: Tensor, toSlots: Int32Array, fromSlots: Int32Array): Copy => {
    const [to, from] = direction === "in" ? [device, other] : [other, device];
    return { direction, to, toSlots, from, fromSlots };
  };
  const copy = turn(pages, hostPages, shuffled(rows, count, bytes), shuffled(rows, count, bytes + 1));
  const raw = turn(whole, hostWhole, Int32Array.of(1), Int32Array.of(0));
  const right = new Map<Path, boolean>();
  for (const path of scale.paths) right.set(path, await arrives(bed, copy, path));
  const us: Record<string, number[]> = Object.fromEntries([...scale.paths, "raw"].map((name) => [name, []]));
  for (let i = 0; i < scale.samples; i++) {
    us.raw?.push(await timed(bed, raw, "dma"));
    for (const path of scale.paths) us[path]?.push(await timed(bed, copy, path));
  }
  const rawRate = scale.rawBytes / summarise(us.raw as number[]).median_us / 1e3;
  const ceiling = { name: `one_copy_${direction}_gb_per_s`, value: rawRate };
  const out = scale.paths.map((path): Row => {
    const row = rowOf("page_copy", `${direction} ${path}`, us[path] as number[], bytes * count, ceiling);
    return { ...row, pages: { bytes, count }, pass: right.get(path) === true };
  });
  const median = (path: string): number => summarise(us[path] as number[]).median_us;
  const fixed = scale.paths.filter((path) => path !== "auto");
  const best = fixed.reduce((a, b) => (median(b) < median(a) ? b : a));
  // The chosen path is one of the fixed ones: its own time in these turns tells, free of what parts two rows of the same path.
  const chosen = scale.paths.length > 2 ? bed.paths.choose(direction, bytes, count) : best;
  const times = { direction, bytes, best, share: (out.at(-1) as Row).share_of_ceiling, overBest: median(chosen) / median(best) };
  return { rows: out, times };
}

/** GB/s of 2 MiB pages in both directions at once, in disjoint halves of both pools. */
async function bothWays(bed: Bed, oneWay: number): Promise<Row> {
  const bytes = 2 * MIB;
  const rows = bed.scale.poolBytes / bytes;
  using pages = bed.pool.reshape([rows, bytes]);
  using host = bed.host.reshape([rows, bytes]);
  const half = rows / 2;
  const [low, other] = [shuffled(half, half, 1), shuffled(half, half, 2)];
  const upper = other.map((slot) => slot + half);
  const samples: number[] = [];
  for (let i = -1; i < bed.scale.samples; i++) {
    const begin = performance.now();
    const all = Array.from({ length: 4 }, () => [
      bed.streams.in.copyPages({ to: pages, toSlots: low, from: host, fromSlots: other }),
      bed.streams.out.copyPages({ to: host, toSlots: upper, from: pages, fromSlots: low.map((slot) => slot + half) }),
    ]).flat();
    await Promise.all(all.map(({ settled }) => settled));
    if (i >= 0) samples.push((performance.now() - begin) * 1e3);
  }
  const row = rowOf("page_copy", "both ways", samples, 4 * bed.scale.poolBytes, { name: "one_way_gb_per_s", value: oneWay });
  return { ...row, op: "page_copy_both", pages: { bytes, count: 4 * rows } };
}

/** Milliseconds by which a 1 ms timer was late, 99th percentile, while `body` ran. */
async function timerLag(body: () => Promise<void>): Promise<{ p99Ms: number; ticks: number }> {
  const lags: number[] = [];
  let running = true;
  let last = performance.now();
  const tick = (): void => {
    const now = performance.now();
    lags.push(now - last - 1);
    last = now;
    if (running) setTimeout(tick, 1);
  };
  setTimeout(tick, 1);
  await body();
  running = false;
  lags.sort((a, b) => a - b);
  return { p99Ms: lags[Math.floor(lags.length * 0.99)] ?? Number.NaN, ticks: lags.length };
}

async function lagRow(bed: Bed): Promise<Row> {
  const bytes = 256 * KIB;
  const rows = bed.scale.poolBytes / bytes;
  using pages = bed.pool.reshape([rows, bytes]);
  using host = bed.host.reshape([rows, bytes]);
  const list = shuffled(rows, Math.min(rows, 2048), 9);
  const reversed = list.slice().reverse();
  const { p99Ms, ticks } = await timerLag(async () => {
    const each = bytes * list.length;
    for (let moved = 0; moved < bed.scale.lagBytes; moved += 2 * each) {
      const there = bed.streams.in.copyPages({ to: pages, toSlots: list, from: host, fromSlots: reversed });
      const back = bed.streams.out.copyPages({ to: host, toSlots: list, from: pages, fromSlots: reversed });
      await Promise.all([there.settled, back.settled]);
    }
  });
  const row = rowOf("timer_lag", "p99 while pages move", [p99Ms * 1e3], 0, { name: "limit_us", value: 5000 });
  const { gb_per_s: _, ...rest } = row;
  return { ...rest, share_of_ceiling: p99Ms / 5, figures: { p99_ms: p99Ms, ticks } };
}

/** Seconds a GiB of making host memory ready: all threads, and one. */
/** The first round is told apart: a virtual machine has its memory to fetch from the host of it then. */
async function pinningRow(device: Device, cpu: Device, bytes: number, threads: number): Promise<Row> {
  const us: number[] = [];
  const { p99Ms } = await timerLag(async () => {
    for (let round = 0; round < 5; round++) {
      const begin = performance.now();
      const tensor = await allocateHostTensor(cpu, "u8", [bytes], { pinnedFor: device, threads });
      us.push((performance.now() - begin) * 1e3);
      tensor.dispose();
      await new Promise((resolve) => setTimeout(resolve, 300)); // unlocked and unmapped behind the event loop
    }
  });
  const ceiling = { name: "limit_s_per_gib", value: 0.15 };
  const row = rowOf("host_memory", `pinned, ${threads} threads`, us.slice(1), bytes, ceiling);
  const msPerGib = (time: number): number => time / 1e3 / (bytes / GIB);
  const figures = { ms_per_gib: msPerGib(row.median_us), first_ms_per_gib: msPerGib(us[0] as number), lag_p99_ms: p99Ms };
  return { ...row, pages: { bytes, count: 1 }, share_of_ceiling: figures.ms_per_gib / 150, figures };
}

export async function pageCopy(
  device: Device,
  _ceilings: Record<string, number>,
  report: (row: Row) => void,
  { conclude }: SuiteOptions = {},
): Promise<void> {
  const scale = scales[device.backend];
  const isGpu = device.backend === "cuda";
  using other = isGpu ? openDevice("cpu") : undefined;
  const cpu = other ?? device;
  const threads = cpu.describe().multiprocessors;
  const pinning: Row[] = [];
  for (const [bytes, count] of [
    [scale.pinBytes, threads],
    [scale.pinBytes / 4, 1],
  ] as const) {
    pinning.push(await pinningRow(device, cpu, bytes, count));
  }
  for (const row of pinning) report(row);
  const paths = await measureTransferPaths(device, cpu);
  using host = await allocateHostTensor(cpu, "u8", [scale.poolBytes], { pinnedFor: device });
  using pool = device.zeros("u8", [scale.poolBytes]);
  await device.stream.finished();
  using inwards = device.createTransferStream();
  using outwards = device.createTransferStream();
  const bed: Bed = { device, scale, paths, pool, host, streams: { in: inwards, out: outwards } };
  const times: CopyTimes[] = [];
  const raw: number[] = [];
  for (const direction of ["in", "out"] as const) {
    for (const bytes of sizes) {
      const measured = await sizeRows(bed, direction, bytes);
      times.push(measured.times);
      raw.push((measured.rows[0] as Row).ceiling.value);
      for (const row of measured.rows) {
        const targets = isGpu && row.variant.endsWith("auto") ? copyTargets(measured.times) : [];
        report(targets.length === 0 ? row : { ...row, targets });
      }
    }
  }
  const both = await bothWays(bed, raw.reduce((a, b) => a + b, 0) / raw.length);
  report(both);
  const lag = await lagRow(bed);
  report(lag);
  const targets: Target[] = summariseCopies(times, { both, lag, pinning }, isGpu);
  conclude?.(targets);
}
