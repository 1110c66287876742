/** What a disk does wrong costs pages, never a wrong byte, an exception or the process. */
import { spawnSync } from "node:child_process";
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { expectError, expectRejection } from "../expect_error.js";
import {
  ENTRY,
  HEADER,
  INDEX,
  PAGE_HEADER,
  PAGE_SIZE,
  SlabFixture,
  batchOf,
  expectPages,
  keysOf,
  range,
  roomFor,
  statuses,
  storeAll,
} from "../slab_fixture.js";

process.env.KVASIR_DEBUG = "faults";
const fixture = new SlabFixture();
const [EIO, ENOSPC] = [5, 28];
const PAGE_BYTES = 10_000; // odd: three sectors, the last partly used
const SLOT = PAGE_HEADER + 12_288;
const slotAt = (slot: number): number => HEADER + INDEX + slot * SLOT;
const ENVELOPE = 192; // bytes of a page's header that mean something: 88 + 16 x 4 + 4, rounded to 64

const engines = ["io_uring", "threads"] as const;

function flipBit(path: string, at: number, bit = Math.floor(Math.random() * 8)): void {
  const file = openSync(path, "r+");
  const byte = new Uint8Array(1);
  readSync(file, byte, 0, 1, at);
  byte[0] = (byte[0] as number) ^ (1 << bit);
  writeSync(file, byte, 0, 1, at);
  closeSync(file);
}

/** A file with pages 0 ... count - 1 in the slots of these numbers: stored one by one. */
async function fileWith(count: number): Promise<{ path: string; pool: ReturnType<SlabFixture["pool"]> }> {
  const path = fixture.path();
  const pool = fixture.pool(count, PAGE_BYTES);
  const tier = await fixture.open([pool], { path, maxBytes: roomFor(count, PAGE_BYTES) });
  await fixture.fill(pool, range(0, count));
  for (const number of range(0, count)) await tier.store(batchOf([number], 0, [number]));
  await tier.close();
  await fixture.poison(pool);
  return { path, pool };
}

test("a flipped bit in any field of a page's header, or in its payload, is found", async () => {
  const fields: Record<string, number> = {
    magic: 0,
    version: 8,
    "header bytes": 12,
    fingerprint: 16,
    key: 32,
    parent: 48,
    "page size": 64,
    "token count": 68,
    "payload bytes": 72,
    "payload CRC": 80,
    group: 84,
    "first token": 88,
    "last token": 88 + 4 * PAGE_SIZE - 1,
    padding: ENVELOPE - 5,
    "header CRC": ENVELOPE - 4,
    "first byte": PAGE_HEADER,
    "last byte": PAGE_HEADER + PAGE_BYTES - 1,
  };
  const places = [...Object.values(fields), ...Array.from({ length: 40 }, () => Math.floor(Math.random() * ENVELOPE))];
  places.push(...Array.from({ length: 40 }, () => PAGE_HEADER + Math.floor(Math.random() * PAGE_BYTES)));
  const count = places.length + 1;
  const { path, pool } = await fileWith(count);
  for (const [slot, place] of places.entries()) flipBit(path, slotAt(slot) + place);
  const tier = await fixture.open([pool], { path, maxBytes: roomFor(count, PAGE_BYTES) });
  const found = await tier.load(batchOf(range(0, count)));
  for (const [slot, place] of places.entries()) expect(found[slot], `bit at ${place} of slot ${slot}`).toBe(2);
  expect(found[count - 1], "the page that was left alone").toBe(0);
  expect(tier.stats()).toMatchObject({ damaged: places.length, pages: 1 });
  await storeAll(fixture, tier, pool, range(0, count - 1));
  expect(statuses(await tier.load(batchOf(range(0, count))))).toBe("0".repeat(count));
  await tier.close();
});

test("a page that another one's bytes overwrote is found", async () => {
  const { path, pool } = await fileWith(4);
  const bytes = readFileSync(path);
  bytes.copy(bytes, slotAt(0), slotAt(1), slotAt(2)); // whole and sealed, but not what its entry names
  writeFileSync(path, bytes);
  const tier = await fixture.open([pool], { path });
  expect(statuses(await tier.load(batchOf([0, 1, 2, 3])))).toBe("2000");
  await tier.close();
});

test("a flipped bit in an index entry drops that page alone, and its slot is used again", async () => {
  const count = ENTRY;
  const { path, pool } = await fileWith(count);
  for (let slot = 0; slot < count - 1; slot++) flipBit(path, HEADER + slot * ENTRY + slot);
  const tier = await fixture.open([pool], { path, maxBytes: roomFor(count, PAGE_BYTES) });
  expect(statuses(await tier.lookup(0, keysOf(range(0, count))))).toBe("0".repeat(count - 1).concat("1"));
  expect(tier.describe().droppedEntries).toBe(count - 1);
  await storeAll(fixture, tier, pool, range(100, 100 + count - 1));
  await tier.close();
  const next = await fixture.open([pool], { path, maxBytes: roomFor(count, PAGE_BYTES) });
  expect(next.stats().pages).toBe(count);
  expect(next.describe().droppedEntries).toBe(0);
  await next.close();
});

test("a flipped bit in the file's header is an error that says what to do", async () => {
  const { path, pool } = await fileWith(4);
  const broken = fixture.path();
  for (const at of [8, 12, 16, 31, 32, 40, 44, 60, 30_000, HEADER - 1]) {
    copyFileSync(path, broken);
    flipBit(broken, at);
    await expectRejection("ERR_KVASIR_CORRUPT_FILE", [broken, /onMismatch/], fixture.open([pool], { path: broken }));
  }
  const tier = await fixture.open([pool], { path: broken, onMismatch: "reset" });
  expect(tier.stats().pages).toBe(0);
  await storeAll(fixture, tier, pool, [7]);
  await tier.close();
  flipBit(broken, 3); // the magic number: it might be anybody's file
  const open = fixture.open([pool], { path: broken, onMismatch: "reset" });
  await expectRejection("ERR_KVASIR_CORRUPT_FILE", [/not a slab file/], open);
});

test("a file that was cut short keeps the pages before the cut", async () => {
  const { path, pool } = await fileWith(20);
  const cut = fixture.path();
  for (const [bytes, kept] of [
    [slotAt(20) - 1, 19],
    [slotAt(7), 7],
    [slotAt(3) + 5000, 3],
    [HEADER + 100, 0],
    [HEADER, 0],
  ] as const) {
    copyFileSync(path, cut);
    truncateSync(cut, bytes);
    const tier = await fixture.open([pool], { path: cut });
    expect(statuses(await tier.load(batchOf(range(0, 20))))).toBe("0".repeat(kept).concat("1".repeat(20 - kept)));
    await storeAll(fixture, tier, pool, range(30, 40));
    await tier.close();
  }
  copyFileSync(path, cut);
  truncateSync(cut, 3000);
  await expectRejection("ERR_KVASIR_CORRUPT_FILE", [cut, /damaged header/], fixture.open([pool], { path: cut }));
  truncateSync(cut, 0);
  await (await fixture.open([pool], { path: cut })).close();
  expect(statSync(cut).size, "an empty file is a new one").toBeGreaterThanOrEqual(HEADER);
});

describe.each(
  engines.flatMap((engine) => [
    { engine, refuseDirect: false },
    { engine, refuseDirect: true },
  ]),
)("%o", (way) => {
  test("a file that is cut short while it is open: damaged, then stored anew", async () => {
    const { path, pool } = await fileWith(20);
    const tier = await fixture.open([pool], { path, maxBytes: roomFor(20, PAGE_BYTES), ...way });
    truncateSync(path, slotAt(12) + 6000);
    expect(statuses(await tier.load(batchOf(range(0, 20))))).toBe("0".repeat(12).concat("2".repeat(8)));
    await storeAll(fixture, tier, pool, range(12, 20));
    expect(statuses(await tier.load(batchOf(range(0, 20))))).toBe("0".repeat(20));
    await expectPages(pool, range(12, 20), range(12, 20));
    await tier.close();
  });

  test("transfers that move a sector at a time move all", async () => {
    const pool = fixture.pool(12, PAGE_BYTES);
    const tier = await fixture.open([pool], way);
    tier.injectFaults({ mostBytes: 4096 });
    await storeAll(fixture, tier, pool, range(0, 12));
    await fixture.poison(pool);
    expect(statuses(await tier.load(batchOf(range(0, 12))))).toBe("0".repeat(12));
    await expectPages(pool, range(0, 12), range(0, 12));
    await tier.close();
  });

  test("reads that fail are failures, and their pages are stored anew", async () => {
    const { path, pool } = await fileWith(8);
    const tier = await fixture.open([pool], { path, maxBytes: roomFor(8, PAGE_BYTES), ...way });
    tier.injectFaults({ failRead: 3, failCount: 2, errno: EIO });
    const found = await tier.load(batchOf(range(0, 8)));
    expect([...found].sort()).toEqual([0, 0, 0, 0, 0, 0, 3, 3]);
    const failed = range(0, 8).filter((number) => found[number] === 3);
    expect(statuses(await tier.lookup(0, keysOf(failed)))).toBe("00");
    expect(tier.stats()).toMatchObject({ failures: 2, pages: 6, loads: 6 });
    await storeAll(fixture, tier, pool, failed);
    expect(statuses(await tier.load(batchOf(range(0, 8))))).toBe("0".repeat(8));
    await tier.close();
  });

  test("writes that fail leave no page, in memory or in the file", async () => {
    const pool = fixture.pool(8, PAGE_BYTES);
    const path = fixture.path();
    const maxBytes = roomFor(8, PAGE_BYTES);
    const tier = await fixture.open([pool], { path, maxBytes, ...way });
    await fixture.fill(pool, range(0, 8));
    const held = new Set<number>();
    for (let nth = 1; nth <= 12; nth++) {
      tier.injectFaults({ failWrite: nth, errno: EIO });
      const found = await tier.store(batchOf(range(0, 8)));
      for (const number of range(0, 8)) if (found[number] === 0) held.add(number);
      expect(statuses(await tier.lookup(0, keysOf(range(0, 8))))).toBe(
        range(0, 8)
          .map((n) => Number(held.has(n)))
          .join(""),
      );
    }
    expect(tier.stats().failures).toBeGreaterThan(0);
    tier.injectFaults({});
    await tier.store(batchOf(range(0, 8)));
    await tier.close();
    await fixture.poison(pool);
    const next = await fixture.open([pool], { path, maxBytes, ...way });
    const found = await next.load(batchOf(range(0, 8)));
    const loaded = range(0, 8).filter((number) => found[number] === 0);
    expect(loaded.length).toBeGreaterThan(0);
    expect(new Set(found).has(2), "no damaged page").toBe(false);
    await expectPages(pool, loaded, loaded);
    await next.close();
  });

  test("a file system that is full from the start: pages are refused", async () => {
    const pool = fixture.pool(12, PAGE_BYTES);
    const tier = await fixture.open([pool], way);
    tier.injectFaults({ noSpace: 1 });
    await fixture.fill(pool, range(0, 12));
    expect(statuses(await tier.store(batchOf([0, 1])))).toBe("22");
    expect(tier.stats()).toMatchObject({ refused: 2, failures: 0, pages: 0 });
    await tier.close();
  });

  test("room that the file system promised and does not have", async () => {
    const { path, pool } = await fileWith(6);
    const tier = await fixture.open([pool], { path, maxBytes: roomFor(12, PAGE_BYTES), ...way });
    await fixture.fill(pool, range(20, 24));
    tier.injectFaults({ failWrite: 1, failCount: 2, errno: ENOSPC });
    expect(statuses(await tier.store(batchOf([20, 21])))).toBe("22");
    expect(statuses(await tier.store(batchOf(range(20, 24))))).toBe("0000");
    await fixture.poison(pool);
    expect(statuses(await tier.load(batchOf(range(20, 24))))).toBe("0000");
    await expectPages(pool, range(20, 24), range(0, 4));
    await tier.close();
  });
});

const tiny = join(fixture.folder, "tiny");
mkdirSync(tiny);
const isMounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=600k", "tmpfs", tiny]).status === 0;

test.skipIf(!isMounted)(`a file system of 600 KB${isMounted ? "" : ": only root mounts one"}`, async () => {
  const pool = fixture.pool(100, PAGE_BYTES);
  try {
    const tier = await fixture.open([pool], { path: join(tiny, "x.slab"), maxBytes: 2 ** 30 });
    await fixture.fill(pool, range(0, 100));
    for (const number of range(0, 100)) {
      const [status] = await tier.store(batchOf([number], 0, [number]));
      expect(status).toBe(0);
    }
    const { pages, evictions } = tier.stats();
    expect(pages).toBeGreaterThan(15);
    expect(pages).toBeLessThan(600_000 / SLOT);
    expect(evictions).toBe(100 - pages);
    await fixture.poison(pool);
    const last = range(100 - pages, 100);
    expect(statuses(await tier.load(batchOf(last)))).toBe("0".repeat(pages));
    await expectPages(pool, last, range(0, pages));
    await tier.close();
  } finally {
    spawnSync("umount", [tiny]);
  }
});

test("faults are injected only when asked for", async () => {
  process.env.KVASIR_DEBUG = "";
  const pool = fixture.pool(1, 4096);
  const tier = await fixture.open([pool]).finally(() => {
    process.env.KVASIR_DEBUG = "faults";
  });
  expectError("ERR_KVASIR_UNSUPPORTED", [/KVASIR_DEBUG=faults/], () => tier.injectFaults({ failRead: 1 }));
  await tier.close();
});
