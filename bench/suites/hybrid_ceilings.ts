/** What bounds a hybrid decode: how fast the CPU reads pages of host memory, how fast layers of them come over the link, and both at once. */
import { type Device, type Stream, type Tensor, type TransferStream, probeRead } from "../../lib/index.js";
import { noAttention, type Row } from "../results.js";

export interface HybridCeilingParts {
  device: Device;
  host: Device;
  /** [pages, elements_per_page] */
  hostPages: Tensor;
  /** Pages in the order in which they are copied. */
  slots: Int32Array;
  layers: number;
  chunkPages: number;
  /** Microseconds that a rate is measured for. */
  ceilingUs: number;
}

/** Work that is enqueued piece by piece on one stream and timed by its stamps. */
interface Load {
  stream: Stream | TransferStream;
  /** Of one piece. */
  bytes: number;
  enqueue(piece: number): void;
}

/** GB/s of each load while all of them run, and of all together over the time from the first to the last. */
async function rates(loads: readonly Load[], pieces: readonly number[]): Promise<{ each: number[]; sum: number }> {
  const begin = performance.now();
  loads.forEach(({ stream, enqueue }, i) => {
    stream.stamp(0);
    for (let piece = 0; piece < (pieces[i] as number); piece++) enqueue(piece);
    stream.stamp(1);
  });
  await Promise.all(loads.map(({ stream }) => stream.finished()));
  const bytes = loads.map((load, i) => load.bytes * (pieces[i] as number));
  return {
    each: loads.map(({ stream }, i) => (bytes[i] as number) / stream.elapsedMicroseconds(0, 1) / 1e3),
    sum: bytes.reduce((a, b) => a + b, 0) / (performance.now() - begin) / 1e6,
  };
}

/** Pieces that take about `us`. */
async function piecesFor(load: Load, us: number): Promise<number> {
  await rates([load], [2]);
  const { each } = await rates([load], [4]);
  return Math.max(4, Math.round(((each[0] as number) * 1e3 * us) / load.bytes));
}

const rateRow = (variant: string, rate: number, limit: number, dtype: Row["dtype"], bytes: number): Row => ({
  op: "hybrid_ceiling",
  variant,
  shape: noAttention,
  dtype,
  samples: 1,
  median_us: bytes / rate / 1e3,
  p5_us: bytes / rate / 1e3,
  p95_us: bytes / rate / 1e3,
  gb_per_s: rate,
  ceiling: { name: "alone_gb_per_s", value: limit },
  share_of_ceiling: rate / limit,
  peers: {},
  max_abs_err: 0,
  tolerance: 0,
  pass: true,
});

/** Returns GB/s of both sides at once. */
export async function hybridCeilings(parts: HybridCeilingParts, report: (row: Row) => void): Promise<number> {
  const { device, host, hostPages, ceilingUs } = parts;
  const count = Math.min(parts.chunkPages, parts.slots.length);
  using stream = host.createStream();
  using transfers = device.createTransferStream();
  using staging = device.empty(hostPages.dtype, [count, (hostPages.shape[1] as number) / parts.layers]);
  using xor = host.empty("i32", [1]);
  const cpu = readLoad(parts, stream, xor, count);
  const link = linkLoad(parts, transfers, staging, count);
  const pieces = [await piecesFor(cpu, ceilingUs), await piecesFor(link, ceilingUs)] as const;
  const [cpuAlone] = (await rates([cpu], [pieces[0]])).each as [number];
  const [linkAlone] = (await rates([link], [pieces[1]])).each as [number];
  const both = await rates([cpu, link], pieces);
  const [cpuBeside, linkBeside] = both.each as [number, number];
  const row = (variant: string, rate: number, limit: number, bytes: number): void =>
    report(rateRow(variant, rate, limit, hostPages.dtype, bytes));
  row("CPU reads", cpuAlone, cpuAlone, cpu.bytes);
  row("link, layers of pages", linkAlone, linkAlone, link.bytes);
  row("CPU reads beside the link", cpuBeside, cpuAlone, cpu.bytes);
  row("link beside the CPU", linkBeside, linkAlone, link.bytes);
  row("both at once", both.sum, cpuAlone + linkAlone, cpu.bytes + link.bytes);
  return both.sum;
}

/** The CPU reads `count` neighbouring pages whole. */
function readLoad({ hostPages, slots }: HybridCeilingParts, stream: Stream, out: Tensor, count: number): Load {
  return {
    stream,
    bytes: (hostPages.bytes / (hostPages.shape[0] as number)) * count,
    enqueue: (piece) => {
      const from = (piece * count) % (slots.length - count + 1);
      using x = hostPages.slice(from, from + count);
      probeRead(stream, { x, out });
    },
  };
}

/** One layer of `count` pages, as a decode streams them. */
function linkLoad(parts: HybridCeilingParts, stream: TransferStream, to: Tensor, count: number): Load {
  const { hostPages, slots, layers } = parts;
  const layerBytes = hostPages.bytes / (hostPages.shape[0] as number) / layers;
  const toSlots = Int32Array.from({ length: count }, (_, i) => i);
  return {
    stream,
    bytes: layerBytes * count,
    enqueue: (piece) => {
      const from = (piece * count) % (slots.length - count + 1);
      const fromSlots = slots.subarray(from, from + count);
      const fromOffset = (piece % layers) * layerBytes;
      stream.copyPages({ from: hostPages, fromSlots, fromOffset, to, toSlots, bytes: layerBytes });
    },
  };
}
