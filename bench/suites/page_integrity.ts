/**
 * Moves far more bytes than either pool holds between a device pool and host memory, both ways at once, by every path and in odd parts of
 * pages, and checks every page that comes back: each has contents of its own, known by the XOR of each of its parts, so that a page or a
 * fragment in a wrong place, a stale one, and a copy that overtook its event all show. A row fails with the first wrong part.
 */
import {
  allocateHostTensor,
  type CopyPath,
  type Device,
  openDevice,
  probeRead,
  type Tensor,
  type TransferStream,
} from "../../lib/index.js";
import { makeTarget, noAttention, type Row, type SuiteOptions } from "../results.js";

const MIB = 2 ** 20;
/** Parts of a page that are checked by themselves. */
const PARTS = 16;
/** Words by which the contents of one page are shifted against those of the one before. */
const SHIFT = 1031;

interface Scale {
  pageBytes: number;
  devicePages: number;
  hostPages: number;
  /** Pages of one round, each way. */
  roundPages: number;
  movedBytes: number;
}
const scales: Record<Device["backend"], Scale> = {
  cuda: { pageBytes: 8 * MIB, devicePages: 1024, hostPages: 2048, roundPages: 512, movedBytes: 220e9 },
  cpu: { pageBytes: MIB, devicePages: 64, hostPages: 128, roundPages: 32, movedBytes: 4e9 },
};
const paths: readonly ("auto" | CopyPath)[] = ["auto", "batch", "kernel", "dma"];

/** Pages of either side by slot: the key of what it holds. */
interface Books {
  device: Int32Array;
  host: Int32Array;
}

class Integrity {
  readonly #device: Device;
  readonly #scale: Scale;
  readonly #pool: Tensor;
  readonly #host: Tensor;
  readonly #streams: { in: TransferStream; out: TransferStream };
  readonly #words: number;
  /** XOR of the random words before each, so that any stretch of them has its XOR at once. */
  readonly #prefix: Int32Array;
  readonly #source: Tensor;
  readonly #sums: Tensor;
  readonly books: Books;
  #state = 1;
  checkedParts = 0;
  wrong: string[] = [];

  constructor(device: Device, scale: Scale, pool: Tensor, host: Tensor) {
    this.#device = device;
    this.#scale = scale;
    this.#pool = pool;
    this.#host = host;
    this.#streams = { in: device.createTransferStream(), out: device.createTransferStream() };
    this.#words = scale.pageBytes / 4;
    const keys = scale.devicePages + scale.hostPages;
    const random = Int32Array.from({ length: this.#words + keys * SHIFT }, () => this.#next());
    this.#prefix = new Int32Array(random.length + 1);
    random.forEach((word, i) => {
      this.#prefix[i + 1] = (this.#prefix[i] as number) ^ word;
    });
    this.#source = device.tensor("i32", [random.length], random);
    this.#sums = device.zeros("i32", [scale.roundPages * PARTS]);
    this.books = {
      device: Int32Array.from({ length: scale.devicePages }, (_, slot) => slot),
      host: new Int32Array(scale.hostPages).fill(-1),
    };
    for (let slot = 0; slot < scale.devicePages; slot++) this.#write(slot, slot);
  }

  /** Sends pages out and brings others in, at once; then checks what came. Returns the bytes moved. */
  async round(path: "auto" | CopyPath, pieces: number): Promise<number> {
    const { device, host } = this.books;
    const { roundPages } = this.#scale;
    const leaving = this.#pick(device, (key) => key >= 0, roundPages);
    const free = this.#pick(host, (key) => key < 0, leaving.length);
    const coming = this.#pick(host, (key) => key >= 0, roundPages);
    const room = this.#pick(device, (key) => key < 0, coming.length);
    using edge = this.#device.createEvent();
    this.#device.stream.record(edge);
    for (const stream of [this.#streams.in, this.#streams.out]) stream.wait(edge);
    const out = Math.min(leaving.length, free.length);
    const back = Math.min(coming.length, room.length);
    this.#move("out", leaving.subarray(0, out), free.subarray(0, out), path, pieces);
    this.#move("in", coming.subarray(0, back), room.subarray(0, back), path, pieces);
    using arrived = this.#device.createEvent();
    this.#streams.in.record(arrived);
    this.#device.stream.wait(arrived);
    const keys = coming.subarray(0, back).map((slot) => host[slot] as number);
    await this.#check(room.subarray(0, back), keys, `${path}, ${pieces} pieces`);
    await this.#streams.out.finished();
    for (let i = 0; i < out; i++) {
      host[free[i] as number] = device[leaving[i] as number] as number;
      device[leaving[i] as number] = -1;
    }
    for (let i = 0; i < back; i++) {
      device[room[i] as number] = keys[i] as number;
      host[coming[i] as number] = -1;
    }
    // New contents for slots that are free on the device, as long as both sides keep room for a round.
    const held = [...device, ...host].filter((key) => key >= 0).length;
    const more = device.length + host.length - 3 * roundPages - held;
    for (const slot of this.#pick(device, (key) => key < 0, Math.min(roundPages >> 2, Math.max(0, more)))) {
      const key = this.#unused();
      if (key === undefined) break;
      this.#write(slot, key);
      device[slot] = key;
    }
    return (out + back) * this.#scale.pageBytes;
  }

  dispose(): void {
    this.#streams.in.dispose();
    this.#streams.out.dispose();
    this.#source.dispose();
    this.#sums.dispose();
  }

  #move(direction: "in" | "out", from: Int32Array, to: Int32Array, path: "auto" | CopyPath, pieces: number): void {
    const [source, target] = direction === "out" ? [this.#pool, this.#host] : [this.#host, this.#pool];
    const bytes = this.#scale.pageBytes / pieces;
    for (let piece = 0; piece < pieces; piece++) {
      const offset = piece * bytes;
      const range = { fromOffset: offset, toOffset: offset, bytes };
      this.#streams[direction].copyPages({ from: source, fromSlots: from, to: target, toSlots: to, path, ...range });
    }
  }

  async #check(slots: Int32Array, keys: Int32Array, how: string): Promise<void> {
    const partWords = this.#words / PARTS;
    slots.forEach((slot, i) => {
      using page = this.#pool.select(slot);
      for (let part = 0; part < PARTS; part++) {
        using x = page.slice(part * partWords, (part + 1) * partWords);
        using out = this.#sums.slice(i * PARTS + part, i * PARTS + part + 1);
        probeRead(this.#device.stream, { x, out });
      }
    });
    const sums = (await this.#sums.read()) as Int32Array;
    slots.forEach((slot, i) => {
      for (let part = 0; part < PARTS; part++) {
        const begin = (keys[i] as number) * SHIFT + part * partWords;
        const expected = (this.#prefix[begin] as number) ^ (this.#prefix[begin + partWords] as number);
        this.checkedParts++;
        if (sums[i * PARTS + part] !== expected) this.wrong.push(`slot ${slot} part ${part}, key ${keys[i]}, ${how}`);
      }
    });
  }

  /** Puts the contents of a key into a device slot. */
  #write(slot: number, key: number): void {
    using page = this.#pool.select(slot);
    using contents = this.#source.slice(key * SHIFT, key * SHIFT + this.#words);
    page.copyFrom(contents);
  }

  #unused(): number | undefined {
    const used = new Set([...this.books.device, ...this.books.host]);
    for (let key = 0; key < this.#scale.devicePages + this.#scale.hostPages; key++) if (!used.has(key)) return key;
    return undefined;
  }

  /** At most `count` slots, in random order, whose key is as wanted. */
  #pick(side: Int32Array, isWanted: (key: number) => boolean, count: number): Int32Array {
    const slots = [...side.keys()].filter((slot) => isWanted(side[slot] as number));
    for (let i = slots.length - 1; i > 0; i--) {
      const j = (this.#next() >>> 0) % (i + 1);
      [slots[i], slots[j]] = [slots[j] as number, slots[i] as number];
    }
    return Int32Array.from(slots.slice(0, count));
  }

  #next(): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) | 0;
    let x = Math.imul(this.#state ^ (this.#state >>> 16), 0x45d9f3b);
    x = Math.imul(x ^ (x >>> 16), 0x45d9f3b);
    return x ^ (x >>> 16);
  }
}

export async function pageIntegrity(
  device: Device,
  _ceilings: Record<string, number>,
  report: (row: Row) => void,
  { conclude }: SuiteOptions,
): Promise<void> {
  const scale = scales[device.backend];
  using other = device.backend === "cuda" ? openDevice("cpu") : undefined;
  const cpu = other ?? device;
  const words = scale.pageBytes / 4;
  using host = await allocateHostTensor(cpu, "i32", [scale.hostPages, words], other === undefined ? {} : { pinnedFor: device });
  using pool = device.empty("i32", [scale.devicePages, words]);
  const integrity = new Integrity(device, scale, pool, host);
  const begin = performance.now();
  let moved = 0;
  for (let round = 0; moved < scale.movedBytes && integrity.wrong.length === 0; round++) {
    const path = paths[round % paths.length] as (typeof paths)[number];
    moved += await integrity.round(path, path === "dma" ? 1 : ([1, 4, 32][round % 3] as number));
  }
  const us = (performance.now() - begin) * 1e3;
  integrity.dispose();
  if (integrity.wrong.length > 0) process.stderr.write(`wrong: ${integrity.wrong.slice(0, 5).join("; ")}\n`);
  report({
    op: "page_integrity",
    variant: "moved and checked",
    shape: noAttention,
    pages: { count: Math.round(moved / scale.pageBytes), bytes: scale.pageBytes },
    dtype: "i32",
    samples: 1,
    median_us: us,
    p5_us: us,
    p95_us: us,
    gb_per_s: moved / us / 1e3,
    ceiling: { name: "none", value: 1 },
    share_of_ceiling: 0,
    figures: { moved_gb: moved / 1e9, checked_parts: integrity.checkedParts, wrong_parts: integrity.wrong.length },
    peers: {},
    max_abs_err: integrity.wrong.length,
    tolerance: 0,
    pass: integrity.wrong.length === 0,
  });
  conclude?.([
    makeTarget("bytes moved and checked, GB", moved / 1e9, device.backend === "cuda" ? { at_least: 200 } : {}),
    makeTarget("wrong parts of pages", integrity.wrong.length, { at_most: 0 }),
  ]);
}
