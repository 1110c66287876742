/** Pages between a pool and shared memory: what goes in comes out, what is wrong is named, bad input is refused. */
import { randomBytes } from "node:crypto";
import { afterAll, describe, expect, test } from "vitest";
import { openDevice } from "../../lib/index.js";
import { openPages, type StagedPages, sealPages, stagedBytes } from "../../lib/page_staging.js";
import { expectError, expectRejection } from "../expect_error.js";

const device = openDevice("cpu");
afterAll(() => device.dispose());

const words = (count: number): Uint32Array => Uint32Array.from({ length: count }, () => randomBytes(4).readUInt32LE());

function batch(count: number, pageBytes: number, pageSize: number, gap = 64): StagedPages {
  const each = stagedBytes(pageSize, pageBytes) + gap;
  return {
    pool: device.tensor("u8", [2 * count, pageBytes], new Uint8Array(randomBytes(2 * count * pageBytes))),
    slots: Int32Array.from({ length: count }, (_, i) => 2 * i),
    staging: new Uint8Array(new SharedArrayBuffer(count * each)),
    offsets: Float64Array.from({ length: count }, (_, i) => i * each + 3),
    fingerprint: new Uint8Array(randomBytes(16)),
    group: 1,
    pageSize,
    keys: words(4 * count),
    parents: words(4 * count),
    tokens: new Int32Array(words(pageSize * count)).map((token) => token & 0xffff),
  };
}
const lengthsOf = ({ slots, pageSize, pool }: StagedPages): Float64Array =>
  new Float64Array(slots.length).fill(stagedBytes(pageSize, pool.bytes / (pool.shape[0] as number)));

describe("pages", () => {
  test.each([
    [1, 1, 1],
    [3, 131_072, 64],
    [2, 131_073, 256],
    [5, 1_000_003, 17],
    [40, 4096, 16],
  ])("%i of %i bytes and %i tokens come back, into other slots", async (count, pageBytes, pageSize) => {
    const pages = batch(count, pageBytes, pageSize);
    const before = (await pages.pool.read()) as Uint8Array;
    await sealPages(pages);
    for (const [page, offset] of pages.offsets.entries()) {
      const payload = pages.staging.subarray(offset + stagedBytes(pageSize, 0), offset + stagedBytes(pageSize, pageBytes));
      expect(Buffer.compare(payload, before.subarray(2 * page * pageBytes, (2 * page + 1) * pageBytes))).toBe(0);
      expect(
        pages.staging.slice(offset + stagedBytes(pageSize, pageBytes), offset + stagedBytes(pageSize, pageBytes) + 61),
      ).toEqual(
        new Uint8Array(61), // nothing behind the page
      );
    }
    const there = { ...pages, slots: pages.slots.map((slot) => slot + 1).reverse() };
    expect(Array.from(await openPages(there, lengthsOf(pages)))).toEqual(new Array(count).fill(0));
    const after = (await pages.pool.read()) as Uint8Array;
    for (const [page, slot] of there.slots.entries()) {
      const page8 = after.subarray(slot * pageBytes, (slot + 1) * pageBytes);
      expect(Buffer.compare(page8, before.subarray(2 * page * pageBytes, (2 * page + 1) * pageBytes))).toBe(0);
    }
    pages.pool.dispose();
  });

  test("that differ in one part, or lost a byte, are told by it; their neighbours are not touched", async () => {
    const pages = batch(3, 1000, 16);
    await sealPages(pages);
    const whole = lengthsOf(pages);
    const change = <T extends Uint32Array | Int32Array | Uint8Array>(array: T, place: number): T => {
      const copy = array.slice() as T;
      copy[place] = (copy[place] as number) ^ 1;
      return copy;
    };
    const faults = async (given: Partial<StagedPages>, lengths = whole): Promise<number[]> =>
      Array.from(await openPages({ ...pages, ...given }, lengths));
    const keys = await faults({ keys: change(pages.keys, 7) });
    const parents = await faults({ parents: change(pages.parents, 4) });
    const tokens = await faults({ tokens: change(pages.tokens, 31) });
    const short = await faults({}, whole.with(1, 999));
    const none = await faults({}, whole.with(1, Number.NaN));
    const seen = new Set<number>();
    for (const [first, second, third] of [keys, parents, tokens, short, none]) {
      expect([first, third]).toEqual([0, 0]);
      expect(second).toBeGreaterThan(0);
      seen.add(second as number);
    }
    expect(seen.size).toBe(4); // the last two are both a matter of length
    expect(await faults({ fingerprint: change(pages.fingerprint, 15) })).not.toContain(0);
    expect(await faults({ group: 2 })).not.toContain(0);
    const place = (pages.offsets[1] as number) + stagedBytes(16, 500);
    pages.staging[place] = (pages.staging[place] as number) ^ 0x10;
    expect((await faults({})).map((fault) => fault > 0)).toEqual([false, true, false]);
    pages.pool.dispose();
  });

  test("none", async () => {
    const pages = batch(0, 100, 16);
    pages.pool.dispose();
    const some = { ...pages, pool: device.zeros("u8", [2, 100]), staging: new Uint8Array(new SharedArrayBuffer(8)) };
    await sealPages(some);
    expect(await openPages(some, new Float64Array(0))).toEqual(new Uint8Array(0));
    some.pool.dispose();
  });

  test("stay copied when their tensor is disposed at once", async () => {
    const pages = batch(8, 2 ** 20, 64);
    const before = (await pages.pool.read()) as Uint8Array;
    const sealing = sealPages(pages);
    pages.pool.dispose();
    using other = device.zeros("u8", [16, 2 ** 20]); // would get the memory if it were free
    await Promise.all([sealing, device.stream.finished()]);
    for (const [page, offset] of pages.offsets.entries()) {
      const payload = pages.staging.subarray(offset + stagedBytes(64, 0), offset + stagedBytes(64, 2 ** 20));
      expect(Buffer.compare(payload, before.subarray(2 * page * 2 ** 20, (2 * page + 1) * 2 ** 20))).toBe(0);
    }
    expect(other.size).toBe(2 ** 24);
  });
});

test("a device that goes down waits for the copies", async () => {
  const own = openDevice("cpu");
  const pages = { ...batch(8, 2 ** 20, 64), pool: own.zeros("u8", [16, 2 ** 20]) };
  await own.stream.finished();
  const sealing = sealPages(pages);
  own.dispose();
  await sealing;
  expect(pages.staging[(pages.offsets[7] as number) + stagedBytes(64, 2 ** 20) - 1]).toBe(0);
  await expectRejection("ERR_KVASIR_DISPOSED", [/dispose/], sealPages(pages));
});

test("bad input is refused", async () => {
  const pages = batch(2, 1000, 16);
  const wrong = "ERR_KVASIR_INVALID_ARGUMENT";
  const refused = async (
    code: "ERR_KVASIR_SHAPE" | "ERR_KVASIR_PAGE_OUT_OF_RANGE" | typeof wrong,
    part: RegExp,
    given: object,
  ) => {
    await expectRejection(code, [part], sealPages({ ...pages, ...given }));
    await expectRejection(code, [part], openPages({ ...pages, ...given }, lengthsOf(pages)));
  };
  await refused("ERR_KVASIR_PAGE_OUT_OF_RANGE", /slots\[1\] is 4/, { slots: Int32Array.of(0, 4) });
  await refused("ERR_KVASIR_PAGE_OUT_OF_RANGE", /slots\[0\] is -1/, { slots: Int32Array.of(-1, 4) });
  await refused(wrong, /offsets\[1\]/, { offsets: Float64Array.of(0, pages.staging.length - 1000) });
  await refused(wrong, /offsets\[0\]/, { offsets: Float64Array.of(Number.NaN, 0) });
  await refused(wrong, /offsets\[0\]/, { offsets: Float64Array.of(-64, 0) });
  await refused(wrong, /offsets\[0\]/, { offsets: Float64Array.of(0.5, 0) });
  await refused(wrong, /keys has 4 entries, expected 8/, { keys: new Uint32Array(4) });
  await refused(wrong, /tokens has 31/, { tokens: new Int32Array(31) });
  await refused(wrong, /fingerprint has 15/, { fingerprint: new Uint8Array(15) });
  await refused(wrong, /group is/, { group: -1 });
  await refused(wrong, /pageSize is/, { pageSize: 257 });
  await refused(wrong, /SharedArrayBuffer/, { staging: new Uint8Array(4096) });
  await refused(wrong, /SharedArrayBuffer|staging/, { staging: new Uint32Array(new SharedArrayBuffer(4096)) });
  await refused(wrong, /pool is/, { pool: pages.staging });
  await refused("ERR_KVASIR_SHAPE", /pool/, { pool: pages.pool.reshape([4000]) });
  await refused("ERR_KVASIR_SHAPE", /pool/, { pool: pages.pool.view({ shape: [2, 500], strides: [1000, 1] }) });
  await expectRejection(wrong, [/lengths has 1/], openPages(pages, new Float64Array(1)));
  expectError(wrong, [/pageSize/], () => stagedBytes(0, 100));
  expect(stagedBytes(64, 1000)).toBe(1384);
  pages.pool.dispose();
});
