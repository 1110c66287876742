/** The disk tier keeps pages: across slots, groups and restarts, in the order of their use, and lets nobody else at its file. */
import { mkdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type TierIdentity, allocateHostTensor, openDevice, openDiskTier } from "../../lib/index.js";
import { expectRejection } from "../expect_error.js";
import {
  SlabFixture,
  batchOf,
  expectPages,
  identityOf,
  keysOf,
  pageIn,
  range,
  roomFor,
  statuses,
  storeAll,
} from "../slab_fixture.js";

process.env.KVASIR_DEBUG = "faults"; // slow transfers, and files without O_DIRECT
const INVALID = "ERR_KVASIR_INVALID_ARGUMENT";
const fixture = new SlabFixture();
const MOST = 2 ** 20 + 8192; // one part, and a little more

const engines = ["io_uring", "threads"] as const;
const ways = engines.flatMap((engine) => [
  { engine, refuseDirect: false },
  { engine, refuseDirect: true },
]);

describe.each(ways)("through $engine, without O_DIRECT: $refuseDirect", (way) => {
  test.each([[[4096]], [[65_536, 1]], [[10_007, 4095, 8193]], [[MOST, 300]], [[2 ** 21 + 1]]])(
    "pages of %j bytes come back whole, in other slots",
    async (pageBytes) => {
      const count = 12;
      const pools = pageBytes.map((bytes) => fixture.pool(count + 1, bytes));
      const tier = await fixture.open(pools, way);
      expect([tier.describe().engine, tier.describe().isDirect]).toEqual([way.engine, !way.refuseDirect]);
      const numbers = range(100, 100 + count);
      for (const [group, pool] of pools.entries()) {
        await fixture.fill(pool, numbers, group);
        expect(statuses(await tier.store(batchOf(numbers, group)))).toBe("0".repeat(count));
        await fixture.poison(pool);
      }
      const slots = numbers.map((_, i) => (i * 5 + 3) % (count + 1)); // each once, one never
      for (const [group, pool] of pools.entries()) {
        expect(statuses(await tier.load(batchOf(numbers, group, slots)))).toBe("0".repeat(count));
        await expectPages(pool, numbers, slots, group);
        const spare = range(0, count + 1).find((slot) => !slots.includes(slot)) as number;
        expect(new Set(await pageIn(pool, spare)), "a slot that nobody asked for").toEqual(new Set([0xa5]));
      }
      expect(tier.stats()).toMatchObject({ pages: count * pools.length, loads: count * pools.length, damaged: 0, failures: 0 });
      await tier.close();
      for (const pool of pools) pool.dispose();
    },
  );

  test("what one process stored the next one finds", async () => {
    const path = fixture.path();
    const pool = fixture.pool(20, 5000);
    const first = await fixture.open([pool], { path, ...way });
    await storeAll(fixture, first, pool, range(0, 20));
    await first.remove(0, keysOf([3, 4]));
    await first.close();
    await fixture.poison(pool);
    const second = await fixture.open([pool], { path, ...way });
    const held = [0, 1, 2, ...range(5, 20)];
    expect(statuses(await second.lookup(0, keysOf(range(0, 21))))).toBe("111001111111111111110");
    expect(statuses(await second.load(batchOf(range(0, 20))))).toBe("000110".concat("0".repeat(14)));
    await expectPages(pool, held, held);
    expect(second.stats()).toMatchObject({ pages: 18, bytes: 18 * 5000, misses: 2 });
    await second.close();
  });
});

test("KVASIR_IO=threads chooses threads, and the description says why", async () => {
  process.env.KVASIR_IO = "threads";
  const pool = fixture.pool(1, 4096);
  const tier = await fixture.open([pool]).finally(() => delete process.env.KVASIR_IO);
  expect(tier.describe()).toMatchObject({ engine: "threads", whyNotRing: "KVASIR_IO=threads" });
  await storeAll(fixture, tier, pool, [1]);
  await tier.close();
});

test("a page is stored once, a key is a page for each group, and an empty batch is no work", async () => {
  const pools = [fixture.pool(4, 4096), fixture.pool(4, 4096)];
  const tier = await fixture.open(pools);
  await storeAll(fixture, tier, pools[0]!, [1, 2]);
  expect(statuses(await tier.store(batchOf([1, 2, 3, 3])))).toBe("1101");
  expect(statuses(await tier.lookup(1, keysOf([1, 2])))).toBe("00");
  expect(statuses(await tier.load(batchOf([1, 2], 1)))).toBe("11");
  expect(await tier.store(batchOf([]))).toEqual(new Uint8Array(0));
  expect(await tier.load(batchOf([]))).toEqual(new Uint8Array(0));
  expect(await tier.lookup(0, new Uint32Array(0))).toEqual(new Uint8Array(0));
  await tier.remove(0, new Uint32Array(0));
  await tier.remove(0, keysOf([99]));
  await tier.close();
});

test.each(["parents", "tokens"] as const)("a page whose %s are others is damaged, and forgotten", async (part) => {
  const pool = fixture.pool(4, 9000);
  const tier = await fixture.open([pool]);
  await storeAll(fixture, tier, pool, [1, 2, 3]);
  const batch = batchOf([1, 2, 3]);
  (batch[part] as Int32Array)[batch[part].length / 3] = 12_345; // of the second page
  expect(statuses(await tier.load(batch))).toBe("020");
  expect(statuses(await tier.lookup(0, batch.keys))).toBe("101");
  expect(statuses(await tier.store(batchOf([1, 2, 3])))).toBe("101");
  expect(statuses(await tier.load(batchOf([1, 2, 3])))).toBe("000");
  expect(tier.stats()).toMatchObject({ damaged: 1, pages: 3 });
  await tier.close();
});

test("a full tier evicts what was used least recently, last pages of a sequence first", async () => {
  const pool = fixture.pool(8, 4096);
  const path = fixture.path();
  const tier = await fixture.open([pool], { path, maxBytes: roomFor(8, 4096) });
  expect(tier.describe().capacityPages).toBe(8);
  await storeAll(fixture, tier, pool, range(0, 4));
  await storeAll(fixture, tier, pool, range(4, 8));
  await tier.lookup(0, keysOf([1, 0]));
  await storeAll(fixture, tier, pool, [8]);
  expect(statuses(await tier.lookup(0, keysOf(range(0, 9))))).toBe("111011111");
  // Now by use: 8 before 7 ... 0; the last is evicted next.
  await storeAll(fixture, tier, pool, [9, 10]);
  expect(statuses(await tier.lookup(0, keysOf(range(0, 11))))).toBe("11101110011");
  expect(tier.stats()).toMatchObject({ pages: 8, evictions: 3 });
  expect(statSync(path).size).toBeLessThanOrEqual(roomFor(8, 4096));
  await tier.close();
  const next = await fixture.open([pool], { path, maxBytes: roomFor(4, 4096) });
  expect(next.stats().pages, "less room than before").toBe(4);
  await next.close();
});

test("a batch larger than the tier keeps its first pages", async () => {
  const pool = fixture.pool(12, 4096);
  const tier = await fixture.open([pool], { maxBytes: roomFor(8, 4096) });
  await storeAll(fixture, tier, pool, [100, 101]);
  await fixture.fill(pool, range(0, 12));
  expect(statuses(await tier.store(batchOf(range(0, 12))))).toBe("000000002222");
  expect(statuses(await tier.load(batchOf(range(0, 12))))).toBe("000000001111");
  await expectPages(pool, range(0, 12), range(0, 12));
  expect(tier.stats()).toMatchObject({ refused: 4, evictions: 2 });
  await tier.close();
});

test.each(engines)("pages on their way are not evicted: %s", async (engine) => {
  const pool = fixture.pool(32, 4096);
  const tier = await fixture.open([pool], { engine, maxBytes: roomFor(8, 4096) });
  await storeAll(fixture, tier, pool, range(0, 8));
  tier.injectFaults({ delayMicroseconds: 30_000 });
  await fixture.fill(pool, [...range(0, 8), ...range(50, 62)]);
  const loading = tier.load(batchOf(range(0, 8), 0, range(20, 28)));
  const storing = tier.store(batchOf(range(50, 62), 0, range(8, 20)));
  expect(statuses(await storing), "all room is in use").toBe("2".repeat(12));
  expect(statuses(await loading)).toBe("0".repeat(8));
  await expectPages(pool, range(0, 8), range(20, 28));
  expect(statuses(await tier.store(batchOf([50, 51], 0, [8, 9])))).toBe("00");
  await tier.close();
});

test.each(engines)("an abort fails what was not begun, and leaves no transfer behind: %s", async (engine) => {
  const count = 300;
  const pool = fixture.pool(count, 8192);
  const tier = await fixture.open([pool], { engine, maxBytes: roomFor(count, 8192) });
  await storeAll(fixture, tier, pool, range(0, count));
  tier.injectFaults({ delayMicroseconds: 20_000 });
  for (const verb of ["load", "store"] as const) {
    if (verb === "store") await tier.remove(0, keysOf(range(0, count)));
    const controller = new AbortController();
    const moving = tier[verb](batchOf(range(0, count)), controller.signal);
    setTimeout(() => controller.abort(), 5);
    const found = await moving;
    await fixture.poison(pool);
    const failed = found.filter((status) => status === 3).length;
    expect(failed).toBeGreaterThan(0);
    expect(failed).toBeLessThan(count);
    expect(found.filter((status) => status === 0).length).toBe(count - failed);
    await new Promise((resolve) => setTimeout(resolve, 60));
    for (const slot of [0, 1, count >> 1, count - 1]) expect(new Set(await pageIn(pool, slot))).toEqual(new Set([0xa5]));
    expect(statuses(await tier[verb](batchOf([1]), controller.signal)), "a signal that was aborted before").toBe("3");
    await fixture.fill(pool, range(0, count));
  }
  await tier.close();
});

test("close waits for what is under way; then the tier holds nothing", async () => {
  const pool = fixture.pool(200, 8192);
  const path = fixture.path();
  const tier = await fixture.open([pool], { path, maxBytes: roomFor(200, 8192), sync: "close" });
  tier.injectFaults({ delayMicroseconds: 5000 });
  await fixture.fill(pool, range(0, 200));
  const storing = tier.store(batchOf(range(0, 200)));
  const closing = [tier.close(), tier.close()];
  expect(statuses(await tier.lookup(0, keysOf([0])))).toBe("0");
  expect(statuses(await storing)).toBe("0".repeat(200));
  await Promise.all(closing);
  expect(statuses(await tier.load(batchOf([0, 1])))).toBe("33");
  expect(statuses(await tier.store(batchOf([0, 1])))).toBe("33");
  expect(statuses(await tier.lookup(0, keysOf([0, 1])))).toBe("00");
  await tier.remove(0, keysOf([0]));
  expect(tier.stats()).toMatchObject({ pages: 0, stores: 200 });
  const next = await fixture.open([pool], { path, maxBytes: roomFor(200, 8192), sync: 0.01 });
  expect(next.stats().pages).toBe(200);
  await next.close();
});

test("one tier at a time has a file open", async () => {
  const pool = fixture.pool(1, 4096);
  const path = fixture.path();
  const first = await fixture.open([pool], { path });
  await expectRejection(INVALID, [path, /another cache has open/], fixture.open([pool], { path }));
  await first.close();
  await (await fixture.open([pool], { path })).close();
});

test("a file of another identity is refused by the fields that differ, or emptied", async () => {
  const pool = fixture.pool(2, 4096);
  const path = fixture.path();
  const tier = await fixture.open([pool], { path });
  await storeAll(fixture, tier, pool, [1, 2]);
  await tier.close();
  const base = identityOf([4096]);
  const others: [RegExp, TierIdentity][] = [
    [/model is "test", expected "other"/, { ...base, model: "other" }],
    [/dtype is "u8", expected "i8"/, { ...base, dtype: "i8" }],
    [/pageSize is 16, expected 32/, { ...base, pageSize: 32 }],
    [/groups\[0\]\.headDim is 64, expected 128/, { ...base, groups: [{ ...base.groups[0]!, headDim: 128 }] }],
    [/groups\[0\]\.layers is "0", expected "0,1"/, { ...base, groups: [{ ...base.groups[0]!, layers: [0, 1] }] }],
    [/groups\[0\]\.window is none, expected 64/, { ...base, groups: [{ ...base.groups[0]!, window: 64 }] }],
    [/groups\[0\]\.format is "identity", expected "i4"/, { ...base, groups: [{ ...base.groups[0]!, format: "i4" }] }],
  ];
  for (const [part, identity] of others)
    await expectRejection("ERR_KVASIR_TIER_MISMATCH", [path, part, /reset/], fixture.open([pool], { path, identity }));
  const smaller = fixture.pool(2, 4000);
  const parts = [/groups\[0\]\.pageBytes is 4096, expected 4000/];
  await expectRejection("ERR_KVASIR_TIER_MISMATCH", parts, fixture.open([smaller], { path }));
  const same = await fixture.open([pool], { path, onMismatch: "reset" });
  expect(same.stats().pages, "a refusal changes nothing").toBe(2);
  await same.close();
  const other = await fixture.open([smaller], { path, onMismatch: "reset" });
  expect(other.stats().pages).toBe(0);
  await storeAll(fixture, other, smaller, [1]);
  await other.close();
});

test("arguments that make no sense are refused in a sentence", async () => {
  const pool = fixture.pool(2, 4096);
  const folder = join(fixture.folder, "folder");
  mkdirSync(folder);
  const foreign = fixture.path();
  writeFileSync(foreign, "a letter to a friend, which nobody may overwrite");
  const refused: [code: Parameters<typeof expectRejection>[0], part: RegExp, options: object][] = [
    [INVALID, /path is ""/, { path: "" }],
    [INVALID, /No such file or directory/, { path: join(fixture.folder, "missing", "x") }],
    [INVALID, /Is a directory/, { path: folder }],
    [INVALID, /cannot be opened for writing/, { path: "/sys/kvasir.slab" }],
    [INVALID, /maxBytes is 1000, expected at least \d+, the room of 4 pages/, { maxBytes: 1000 }],
    [INVALID, /engine is "libaio"/, { engine: "libaio" }],
    [INVALID, /onMismatch is "ignore"/, { onMismatch: "ignore" }],
    [INVALID, /sync is -1/, { sync: -1 }],
    [INVALID, /pools is an array of 0/, { pools: [] }],
    [INVALID, /pools\[0\] has pages of 4096 bytes, expected 5000/, { identity: identityOf([5000]) }],
    ["ERR_KVASIR_UNKNOWN_OPTION", /no option maxByte; did you mean maxBytes/, { maxByte: 1 }],
    ["ERR_KVASIR_CORRUPT_FILE", /is not a slab file/, { path: foreign }],
    ["ERR_KVASIR_CORRUPT_FILE", /is not a slab file/, { path: foreign, onMismatch: "reset" }],
  ];
  for (const [code, part, options] of refused) await expectRejection(code, [part], fixture.open([pool], options));
  expect(statSync(foreign).size).toBe(48);
  const tier = await fixture.open([pool]);
  const batch = batchOf([1, 2]);
  await expectRejection(
    "ERR_KVASIR_PAGE_OUT_OF_RANGE",
    [/slots\[1\] is 2, expected 0 to 1/],
    tier.load(batchOf([1, 2], 0, [0, 2])),
  );
  await expectRejection(INVALID, [/group is the number 1/], tier.load({ ...batch, group: 1 }));
  await expectRejection(INVALID, [/tokens has 3 entries, expected 32/], tier.store({ ...batch, tokens: new Int32Array(3) }));
  await expectRejection(INVALID, [/keys has 7 words/], tier.lookup(0, new Uint32Array(7)));
  await tier.close();
});

test.each(["pooled", "host"])("a device that is disposed ends the tier's work, not the process: %s memory", async (kind) => {
  const cpu = openDevice("cpu", { threads: 1 });
  const shape = [100, 65_536];
  const pool = kind === "host" ? await allocateHostTensor(cpu, "u8", shape) : cpu.empty("u8", shape);
  const identity = identityOf([65_536]);
  const tier = await openDiskTier({ path: fixture.path(), maxBytes: roomFor(100, 65_536), identity, pools: [pool] });
  tier.injectFaults({ delayMicroseconds: 3000 });
  const storing = tier.store(batchOf(range(0, 100)));
  pool.dispose();
  cpu.dispose();
  await new Promise((resolve) => setTimeout(resolve, 5)); // time for memory to go, if nobody held it
  expect(statuses(await storing)).toBe("0".repeat(100));
  await expectRejection("ERR_KVASIR_DISPOSED", [/disposed/], tier.load(batchOf([1])));
  await tier.close();
});
