/** Laws of transfer streams, on any device: contents, order, ends. */
import { describe, expect, test } from "vitest";
import {
  type CopyPagesArgs,
  type CopyPath,
  type Device,
  type Event,
  type Tensor,
  type Transfer,
  allocateHostTensor,
  siluMul,
} from "../lib/index.js";
import { random } from "./attention_cases.js";
import { expectError } from "./expect_error.js";
import { type Bed, hostTensors } from "./host_tensor_cases.js";

const seed = Number(process.env.KVASIR_TEST_SEED ?? Date.now() % 1_000_000);
const context = `KVASIR_TEST_SEED=${seed}`;
const paths: readonly CopyPath[] = ["dma", "batch", "kernel"];

/** What byte `i` of slot `slot` of the pool `key` holds. */
const oracle = (key: number, slot: number, i: number): number => (key * 131 + slot * 31 + i * 7 + (i >> 8) * 13) & 0xff;

function filled(key: number, slots: number, pageBytes: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(slots * pageBytes);
  for (let slot = 0; slot < slots; slot++) {
    for (let i = 0; i < pageBytes; i++) bytes[slot * pageBytes + i] = oracle(key, slot, i);
  }
  return bytes;
}

/** `count` different slots of `slots`, shuffled. */
function scattered(draw: () => number, slots: number, count: number): Int32Array<ArrayBuffer> {
  const all = Int32Array.from({ length: slots }, (_, i) => i);
  for (let i = slots - 1; i > 0; i--) {
    const j = Math.floor(draw() * (i + 1));
    [all[i], all[j]] = [all[j] as number, all[i] as number];
  }
  return all.slice(0, count);
}

const hostTensor = ({ host, device }: Bed, slots: number, pageBytes: number): Promise<Tensor> =>
  allocateHostTensor(host, "u8", [slots, pageBytes], { pinnedFor: device });

interface Layout {
  pageBytes: number;
  bytes?: number;
  toOffset?: number;
  fromOffset?: number;
  slots?: number;
}

/** Copies random pages and compares every byte of the destination, touched or not. */
async function checkCopy(
  bed: Bed,
  direction: "in" | "out",
  layout: Layout,
  slots: [Int32Array, Int32Array],
  path: CopyPath | "auto",
) {
  const { pageBytes, bytes = pageBytes, toOffset = 0, fromOffset = 0 } = layout;
  const [toSlots, fromSlots] = slots;
  const count = 1 + Math.max(-1, ...toSlots, ...fromSlots);
  const rows = Math.max(1, count) + 2;
  using host = await hostTensor(bed, rows, pageBytes);
  using pages = bed.device.empty("u8", [rows, pageBytes]);
  const [to, from] = direction === "in" ? [pages, host] : [host, pages];
  await Promise.all([to.write(filled(1, rows, pageBytes)), from.write(filled(2, rows, pageBytes))]);
  using stream = bed.device.createTransferStream();
  const transfer = stream.copyPages({ to, toSlots, from, fromSlots, bytes, toOffset, fromOffset, path });
  expect(transfer.bytes).toBe(bytes * toSlots.length);
  expect(await transfer.done, transfer.error?.message).toBe("done");
  await transfer.settled;
  const expected = filled(1, rows, pageBytes);
  for (const [i, slot] of toSlots.entries()) {
    for (let b = 0; b < bytes; b++) expected[slot * pageBytes + toOffset + b] = oracle(2, fromSlots[i] as number, fromOffset + b);
  }
  const actual = Buffer.from((await to.read()) as Uint8Array);
  if (Buffer.compare(actual, expected) === 0) return;
  const at = actual.findIndex((value, i) => value !== expected[i]);
  expect.fail(`slot ${Math.floor(at / pageBytes)} byte ${at % pageBytes} is wrong: ${path} ${direction}; ${context}`);
}

function contents(bed: Bed): void {
  const layouts: Layout[] = [
    { pageBytes: 4096 },
    { pageBytes: 1 },
    { pageBytes: 48 },
    { pageBytes: 40_976 },
    { pageBytes: 1037 },
    { pageBytes: 4096, bytes: 1024, toOffset: 2048, fromOffset: 1024 },
    { pageBytes: 4102, bytes: 1031, toOffset: 3, fromOffset: 6 },
    { pageBytes: 70_000, bytes: 66_664, toOffset: 8, fromOffset: 16 },
    { pageBytes: 1_400_017, bytes: 1_300_009, toOffset: 5, fromOffset: 90_001, slots: 4 },
  ];
  describe.each(["in", "out"] as const)("%s", (direction) => {
    test.each([...paths, "auto" as const])("scattered pages of odd sizes and offsets, by %s", async (path) => {
      const draw = random(seed);
      for (const layout of layouts) {
        const { slots = 40 } = layout;
        const count = 1 + Math.floor(draw() * slots);
        await checkCopy(bed, direction, layout, [scattered(draw, slots, count), scattered(draw, slots, count)], path);
      }
    });

    test.each([...paths, "auto" as const])(
      "neighbours, stretches of neighbours, and neighbours on one side only, by %s",
      async (path) => {
        const draw = random(seed + 1);
        const line = Int32Array.from({ length: 30 }, (_, i) => i + 3);
        const backwards = line.slice().reverse();
        const stretches = Int32Array.of(4, 5, 6, 0, 1, 20, 21, 22, 23, 9);
        const others = Int32Array.of(14, 15, 16, 30, 31, 2, 3, 4, 5, 0);
        await checkCopy(bed, direction, { pageBytes: 512 }, [line, line], path);
        await checkCopy(bed, direction, { pageBytes: 512 }, [line, backwards], path);
        await checkCopy(bed, direction, { pageBytes: 512 }, [backwards, scattered(draw, 40, 30)], path);
        await checkCopy(bed, direction, { pageBytes: 528 }, [stretches, others], path);
        await checkCopy(bed, direction, { pageBytes: 528, bytes: 512 }, [line, line], path);
      },
    );

    test.each([...paths, "auto" as const])("more pages than one slice or one launch takes, by %s", async (path) => {
      const draw = random(seed + 2);
      await checkCopy(bed, direction, { pageBytes: 64 }, [scattered(draw, 9000, 8999), scattered(draw, 9000, 8999)], path);
    });
  });

  test("an empty list and pages of no bytes are done at once", async () => {
    await checkCopy(bed, "in", { pageBytes: 16 }, [new Int32Array(0), new Int32Array(0)], "auto");
    await checkCopy(bed, "out", { pageBytes: 16, bytes: 0 }, [Int32Array.of(1), Int32Array.of(0)], "dma");
  });

  test("lists and tensors may go once the call has returned", async () => {
    const pageBytes = 64 * 1024;
    using from = await hostTensor(bed, 256, pageBytes);
    await from.write(filled(3, 256, pageBytes));
    using stream = bed.device.createTransferStream();
    using to = bed.device.empty("u8", [256, pageBytes]);
    const toSlots = scattered(random(seed), 256, 256);
    const wanted = toSlots.slice();
    const fromSlots = Int32Array.from({ length: 256 }, (_, i) => i);
    using whole = from.slice(0, 256);
    const transfer = stream.copyPages({ to, toSlots, from: whole, fromSlots, path: "dma" });
    toSlots.fill(0);
    fromSlots.fill(0);
    whole.dispose();
    expect(await transfer.done).toBe("done");
    const bytes = (await to.read()) as Uint8Array;
    for (const [i, slot] of wanted.entries()) expect(bytes[slot * pageBytes + 9], context).toBe(oracle(3, i, 9));
  });
}

function refusals(bed: Bed): void {
  test("bad slots, shapes and names are refused before anything is enqueued", async () => {
    using host = await hostTensor(bed, 4, 32);
    using pages = bed.device.zeros("u8", [4, 32]);
    using odd = bed.device.zeros("u8", [4, 31]);
    using flat = bed.device.zeros("u8", [128]);
    using stream = bed.device.createTransferStream();
    const good = { to: pages, toSlots: Int32Array.of(0, 1), from: host, fromSlots: Int32Array.of(2, 3) };
    const attempt = (change: object) => (): Transfer => stream.copyPages({ ...good, ...change } as CopyPagesArgs);
    const INVALID = "ERR_KVASIR_INVALID_ARGUMENT";
    expectError("ERR_KVASIR_PAGE_OUT_OF_RANGE", ["toSlots[1] is 4", "0 to 3"], attempt({ toSlots: Int32Array.of(0, 4) }));
    expectError("ERR_KVASIR_PAGE_OUT_OF_RANGE", ["fromSlots[0] is -1"], attempt({ fromSlots: Int32Array.of(-1, 3) }));
    expectError(INVALID, ["toSlots[1] is 1", "once"], attempt({ toSlots: Int32Array.of(1, 1) }));
    expectError(INVALID, ["2", "1"], attempt({ fromSlots: Int32Array.of(2) }));
    expectError(INVALID, ["toSlots", "Int32Array"], attempt({ toSlots: [0, 1] }));
    expectError(INVALID, ["fromSlots", "Float64Array"], attempt({ fromSlots: Float64Array.of(0, 1.5) }));
    expectError("ERR_KVASIR_SHAPE", ["31", "32"], attempt({ to: odd }));
    expectError("ERR_KVASIR_SHAPE", ["[128]", "elements_per_page"], attempt({ to: flat }));
    expectError(INVALID, ["bytes is 33", "32 bytes of a page of to"], attempt({ bytes: 33 }));
    expectError(INVALID, ["fromOffset is 30"], attempt({ bytes: 3, fromOffset: 30 }));
    expectError(INVALID, ["toOffset is -1"], attempt({ toOffset: -1 }));
    expectError(INVALID, ['path is "fast"', "kernel"], attempt({ path: "fast" }));
    expectError(INVALID, ['path is "toString"'], attempt({ path: "toString" }));
    expectError(INVALID, ["deadlineMs is -1"], attempt({ deadlineMs: -1 }));
    expectError(INVALID, ["to is null"], attempt({ to: null }));
    expectError("ERR_KVASIR_UNKNOWN_OPTION", ["toSlot;", "toSlots"], attempt({ toSlot: 1 }));
    expect(await attempt({})().done).toBe("done");
    pages.dispose();
    expectError("ERR_KVASIR_DISPOSED", ["u8 [4, 32]"], attempt({}));
    stream.dispose();
    expectError("ERR_KVASIR_DISPOSED", ["TransferStream"], attempt({}));
  });

  test("pages of one memory are not both read and written", async () => {
    using pool = await hostTensor({ ...bed, device: bed.host }, 8, 64);
    using stream = bed.host.createTransferStream();
    const copy = (toSlots: Int32Array, fromSlots: Int32Array) => stream.copyPages({ to: pool, toSlots, from: pool, fromSlots });
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["fromSlots[1] is 1"], () => copy(Int32Array.of(1, 2), Int32Array.of(0, 1)));
    using half = pool.slice(1, 5);
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["overlapping"], () =>
      stream.copyPages({ to: half, toSlots: Int32Array.of(0), from: pool, fromSlots: Int32Array.of(6) }),
    );
    await pool.write(filled(5, 8, 64));
    expect(await copy(Int32Array.of(1, 2), Int32Array.of(4, 7)).done).toBe("done");
    expect(((await pool.read()) as Uint8Array)[2 * 64 + 5]).toBe(oracle(5, 7, 5));
  });
}

/** What `slow` works on: on a GPU larger, so that it takes a millisecond and more there too. */
const scratchOf = (device: Device): Tensor => device.zeros("f32", device.backend === "cuda" ? [4096, 4096] : [512, 1024]);

/** Work that keeps a stream busy. */
function slow(stream: Device["stream"], scratch: Tensor, times: number): void {
  for (let i = 0; i < times; i++) siluMul(stream, { gate: scratch, up: scratch, out: scratch });
}

function order(bed: Bed): void {
  const pageBytes = 4096;
  const slots = 16;
  const everything = Int32Array.from({ length: slots }, (_, i) => i);

  /** Rounds in which a copy saw other bytes than the producer before it wrote; `withEdge` false leaves the event out. */
  async function races(rounds: number, withEdge: boolean, producer: "stream" | "transfer"): Promise<number> {
    const { device } = bed;
    using host = await hostTensor(bed, slots, pageBytes);
    using back = await hostTensor(bed, slots, pageBytes);
    using pages = device.zeros("u8", [slots, pageBytes]);
    using scratch = scratchOf(device);
    using transfers = device.createTransferStream();
    using computes = device.createStream();
    using seen = device.empty("u8", [slots, pageBytes]);
    using written = device.createEvent();
    using free = device.createEvent();
    let bad = 0;
    for (let round = 0; round < rounds; round++) {
      const value = 1 + (round % 250);
      if (producer === "stream") {
        // The compute stream writes the pages late; the transfer copies them out.
        slow(computes, scratch, 20);
        pages.fill(value, { stream: computes });
        computes.record(written);
        if (withEdge) transfers.wait(written);
        await transfers.copyPages({ to: back, toSlots: everything, from: pages, fromSlots: everything, path: paths[round % 3] })
          .done;
      } else {
        // A transfer that itself waits for late work brings the pages in; the compute stream reads them.
        using late = device.createEvent();
        using other = device.createStream();
        host.fill(value, { stream: bed.host.stream });
        await bed.host.stream.finished();
        slow(other, scratch, 20);
        other.record(late);
        transfers.wait(late);
        transfers.copyPages({ to: pages, toSlots: everything, from: host, fromSlots: everything, path: paths[round % 3] });
        transfers.record(written);
        if (withEdge) computes.wait(written);
        seen.copyFrom(pages, { stream: computes });
        computes.record(free);
        transfers.wait(free);
        await computes.finished();
        await transfers.finished();
      }
      const bytes = (await (producer === "stream" ? back : seen).read()) as Uint8Array;
      if (bytes.some((byte) => byte !== value)) bad++;
      await computes.finished();
    }
    return bad;
  }

  test.each(["stream", "transfer"] as const)(
    "an event from a %s keeps the other one back; without it the copy is wrong",
    async (producer) => {
      expect(await races(200, true, producer), context).toBe(0);
      expect(await races(20, false, producer), "void: nothing went wrong without the event either").toBeGreaterThan(0);
    },
  );

  test("one event recorded by both kinds of stream in turns only rises", async () => {
    const { device } = bed;
    using host = await hostTensor(bed, slots, pageBytes);
    using pages = device.zeros("u8", [slots, pageBytes]);
    using scratch = scratchOf(device);
    using event = device.createEvent();
    using transfers = device.createTransferStream();
    using computes = device.createStream();
    for (let i = 1; i <= 50; i++) {
      slow(computes, scratch, 2);
      pages.fill(i, { stream: computes });
      computes.record(event);
      transfers.wait(event);
      transfers.copyPages({ to: host, toSlots: everything, from: pages, fromSlots: everything });
      transfers.record(event);
      computes.wait(event);
    }
    await computes.finished();
    expect(event.query()).toBe(true);
    expect(((await host.read()) as Uint8Array).every((byte) => byte === 50)).toBe(true);
  });

  test("an event that a transfer stream records again stands for the other stream's record too", async () => {
    const { device } = bed;
    using pages = device.zeros("u8", [slots, pageBytes]);
    using seen = device.zeros("u8", [slots, pageBytes]);
    using scratch = scratchOf(device);
    using event = device.createEvent();
    using transfers = device.createTransferStream();
    using computes = device.createStream();
    using reader = device.createStream();
    await device.stream.finished();
    slow(computes, scratch, 40);
    pages.fill(9, { stream: computes });
    computes.record(event);
    transfers.record(event);
    reader.wait(event);
    seen.copyFrom(pages, { stream: reader });
    await reader.finished();
    expect(((await seen.read()) as Uint8Array).every((byte) => byte === 9)).toBe(true);
  });

  test("stamps measure a transfer", async () => {
    using host = await hostTensor(bed, slots, pageBytes);
    using pages = bed.device.zeros("u8", [slots, pageBytes]);
    using stream = bed.device.createTransferStream();
    stream.stamp(0);
    stream.copyPages({ to: host, toSlots: everything, from: pages, fromSlots: everything });
    stream.stamp(1);
    await stream.finished();
    expect(stream.elapsedMicroseconds(0, 1)).toBeGreaterThan(0);
  });
}

/** Two pools and a transfer stream whose window is full, so that what is enqueued next has not begun. */
function ends(bed: Bed): void {
  const pageBytes = 2 ** 20;
  const slots = 64;
  const everything = Int32Array.from({ length: slots }, (_, i) => i);

  /** Records the event behind a tenth of a second of work or more, on the CPU, which is slow everywhere. */
  function hold(gate: Event): void {
    using scratch = bed.host.zeros("f32", [1024, 4096]);
    using stream = bed.host.createStream();
    slow(stream, scratch, 200);
    stream.record(gate);
  }
  const milliseconds = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

  async function stuffed<T>(body: (parts: Parts) => Promise<T>): Promise<T> {
    using host = await hostTensor(bed, slots, pageBytes);
    using pages = bed.device.zeros("u8", [slots, pageBytes]);
    using gate = bed.device.createEvent();
    using stream = bed.device.createTransferStream();
    hold(gate);
    stream.wait(gate);
    const copy = (more: Partial<CopyPagesArgs> = {}): Transfer =>
      stream.copyPages({ to: host, toSlots: everything, from: pages, fromSlots: everything, ...more });
    // 256 MiB are in flight at most; the rest waits.
    const before = Array.from({ length: 6 }, () => copy());
    const result = await body({ host, pages, stream, copy, before });
    for (const transfer of before) expect(await transfer.done).toBe("done");
    return result;
  }
  interface Parts {
    host: Tensor;
    pages: Tensor;
    stream: ReturnType<Device["createTransferStream"]>;
    copy: (more?: Partial<CopyPagesArgs>) => Transfer;
    before: readonly Transfer[];
  }

  test("a transfer that has not begun is called off, and its event is raised in order", async () => {
    await stuffed(async ({ stream, copy, host, before }) => {
      using event = bed.device.createEvent();
      const marker = bed.device.zeros("u8", [1, pageBytes]);
      marker.fill(77);
      await bed.device.stream.finished();
      const transfer = copy({ from: marker, fromSlots: Int32Array.of(0), toSlots: Int32Array.of(5) });
      stream.record(event);
      marker.dispose();
      await milliseconds(20); // the thread has handed on all that it may
      expect(transfer.cancel()).toBe(true);
      expect(transfer.cancel()).toBe(true);
      bed.device.stream.wait(event);
      expect(await transfer.done).toBe("cancelled");
      await transfer.settled;
      await bed.device.stream.finished();
      expect(await before[5]?.done).toBe("done");
      expect(event.query()).toBe(true);
      expect(((await host.select(5).read()) as Uint8Array).every((byte) => byte === 0)).toBe(true);
    });
  });

  test("a transfer that is done is not called off", async () => {
    await stuffed(async ({ copy }) => {
      const transfer = copy();
      expect(await transfer.done).toBe("done");
      expect(transfer.cancel()).toBe(false);
    });
  });

  test("past its deadline a transfer is late, and settles all the same", async () => {
    await stuffed(async ({ copy }) => {
      const [late, patient] = [copy({ deadlineMs: 0 }), copy({ deadlineMs: 60_000 })];
      expect(await late.done).toBe("late");
      await late.settled;
      expect(await patient.done).toBe("done");
    });
  });

  test("disposing of stream and tensors in flight ends what was enqueued", async () => {
    const transfers = await stuffed(async ({ stream, copy, host, pages, before }) => {
      const all = [...before, copy()];
      stream.dispose();
      host.dispose();
      pages.dispose();
      stream.dispose();
      expect(stream.disposed).toBe(true);
      return all;
    });
    for (const transfer of transfers) expect(await transfer.done).toBe("done");
  });

  test("memory goes to nobody else while a transfer is still to read or write it", async () => {
    using gate = bed.device.createEvent();
    using stream = bed.device.createTransferStream();
    const source = bed.device.empty("u8", [slots, pageBytes]);
    const target = bed.device.empty("u8", [slots, pageBytes]);
    using host = await hostTensor(bed, slots, pageBytes);
    using back = await hostTensor(bed, slots, pageBytes);
    source.fill(1);
    host.fill(2);
    await Promise.all([bed.device.stream.finished(), bed.host.stream.finished()]);
    hold(gate);
    stream.wait(gate);
    stream.copyPages({ to: back, toSlots: everything, from: source, fromSlots: everything });
    const late = stream.copyPages({ to: target, toSlots: everything, from: host, fromSlots: everything });
    source.dispose();
    target.dispose();
    // Of the same size: the pool would hand out the same memory if it were free.
    using first = bed.device.empty("u8", [slots, pageBytes]);
    using second = bed.device.empty("u8", [slots, pageBytes]);
    first.fill(3);
    second.fill(3);
    expect(await late.done).toBe("done");
    await bed.device.stream.finished();
    for (const [tensor, byte] of [
      [back, 1],
      [first, 3],
      [second, 3],
    ] as const) {
      const bytes = Buffer.from(((await tensor.read()) as Uint8Array).buffer);
      expect(bytes.equals(Buffer.alloc(bytes.length, byte)), `${byte}`).toBe(true);
    }
  });

  test("a transfer stream that was never used goes", () => {
    for (let i = 0; i < 100; i++) bed.device.createTransferStream().dispose();
  });
}

export function transferSuite(device: Device, host: Device): void {
  const bed: Bed = { device, host };
  describe("contents", () => contents(bed));
  describe("refusals", () => refusals(bed));
  describe("order", () => order(bed));
  describe("ends", () => ends(bed));
  describe("host tensors", () => hostTensors(bed));
}
