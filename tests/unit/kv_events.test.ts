import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { MARK_OUT, NONE, PagePool, TIER_DISK } from "../../lib/cache/page_pool.js";
import { PoolEvents } from "../../lib/cache/pool_events.js";
import { hexKey, type KvEvent, KvEvents, type KvReplay } from "../../lib/observe/kv_events.js";
import { expectError } from "../expect_error.js";

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const words = Uint32Array.of(1, 0, 0, 0xabc, 5, 6, 7, 8);
const add = (events: KvEvents, group = 0): void => events.add("stored", group, 1, words, 0, words, 4);
const sequences = (replay: KvReplay): number[] | "gap" => (replay.gap ? "gap" : replay.events.map(({ sequence }) => sequence));

describe("KvEvents", () => {
  test("keys are read as one hexadecimal number, with group, kind and tiers beside them", () => {
    const events = new KvEvents();
    events.record();
    events.add("moved", 300, 0b1010, words, 0, words, 4);
    events.clear(2);
    expect(events.replay(1)).toEqual({
      gap: false,
      next: 3,
      events: [
        {
          sequence: 1,
          kind: "moved",
          group: 300,
          key: "00000abc000000000000000000000001",
          parent: "00000008000000070000000600000005",
          tiers: ["ddr", "remote"],
        },
        { sequence: 2, kind: "cleared", group: 2, key: "", parent: "", tiers: [] },
      ],
    });
  });

  test("events before anybody reads are counted, not kept, and asking for them is a gap", () => {
    const events = new KvEvents();
    add(events);
    add(events);
    expect([events.last, events.isRecording]).toEqual([2, false]);
    expect(events.replay(1)).toEqual({ gap: true, oldest: 3, next: 3 });
    expect(events.replay(3)).toEqual({ gap: false, events: [], next: 3 });
    events.record();
    add(events);
    expect(events.replay(2)).toEqual({ gap: true, oldest: 3, next: 4 });
    expect(sequences(events.replay(3))).toEqual([3]);
  });

  test("a replay gives exactly what the ring holds, or says that it does not", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 9 }),
        fc.nat({ max: 30 }),
        fc.nat({ max: 40 }),
        fc.nat({ max: 40 }),
        (capacity, count, from, limit) => {
          const events = new KvEvents({ capacity });
          events.record();
          for (let i = 0; i < count; i++) add(events, i + 1);
          const number = 1 + (from % (count + 1));
          const replay = events.replay(number, limit);
          const isKept = number > count - capacity;
          expect(replay.gap).toBe(!isKept);
          if (replay.gap) expect([replay.oldest, replay.next]).toEqual([count - capacity + 1, count + 1]);
          else {
            const length = Math.min(limit, count + 1 - number);
            expect(replay.events.map(({ group }) => group)).toEqual(Array.from({ length }, (_, i) => number + i));
            expect(replay.next).toBe(number + length);
          }
        },
      ),
    );
  });

  test("a subscriber gets every event once and in order, in batches, until it ends", async () => {
    const events = new KvEvents();
    add(events);
    const seen: KvEvent[] = [];
    const stop = events.subscribe((batch) => {
      if (!batch.gap) seen.push(...batch.events);
    });
    for (let i = 0; i < 5000; i++) add(events);
    expect(seen).toEqual([]);
    await turn();
    expect(seen.length).toBe(4096);
    await turn();
    expect(seen.map(({ sequence }) => sequence)).toEqual(Array.from({ length: 5000 }, (_, i) => i + 2));
    stop();
    stop();
    add(events);
    await turn();
    expect(seen.length).toBe(5000);
  });

  test("a subscriber that the ring overtook is told so, and goes on with what comes next", async () => {
    const events = new KvEvents({ capacity: 4 });
    const seen: (number[] | "gap")[] = [];
    const stop = events.subscribe((batch) => seen.push(sequences(batch)));
    for (let i = 0; i < 5; i++) add(events);
    await turn();
    add(events);
    await turn();
    expect(seen).toEqual(["gap", [6]]);
    stop();
  });

  test("a subscriber may start from an event that is kept", async () => {
    const events = new KvEvents();
    events.record();
    for (let i = 0; i < 3; i++) add(events);
    const seen: (number[] | "gap")[] = [];
    const stop = events.subscribe((batch) => seen.push(sequences(batch)), 2);
    await turn();
    expect(seen).toEqual([[2, 3]]);
    stop();
  });

  test("bad numbers, sizes and listeners are refused", () => {
    const events = new KvEvents();
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["from is 2", "from 1 to 1"], () => events.replay(2));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["from is 0"], () => events.subscribe(() => {}, 0));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["capacity is 0"], () => new KvEvents({ capacity: 0 }));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["listener"], () => events.subscribe(3 as never));
  });
});

describe("events of a pool", () => {
  test("a page is stored, moves between tiers and is removed", () => {
    const pool = new PagePool({ slots: [2, 2], pageSize: 1 });
    const events = new KvEvents();
    new PoolEvents(pool, events, 7, ["hbm", "ddr"]);
    events.record();
    const root = Uint32Array.of(9, 9, 9, 9);
    const keys = Uint32Array.of(1, 2, 3, 4, 5, 6, 7, 8);
    const tokens = Int32Array.of(10, 11);
    const [first, second] = [pool.take(), pool.take()];
    pool.seal(first, keys, 0, NONE, root, tokens, 0);
    pool.seal(second, keys, 4, first, root, tokens, 1);
    const epoch = pool.mark(second, MARK_OUT);
    pool.takeSlot(second, 1);
    pool.setValid(second, 1, true);
    pool.unmark(second, MARK_OUT, epoch);
    pool.dropSlot(second, 0);
    pool.setTier(second, TIER_DISK, true);
    pool.setTier(second, TIER_DISK, true);
    pool.releaseAll(Int32Array.of(first, second));
    pool.dropSlot(pool.victim(1), 1);
    const replay = events.replay(1);
    const seen = replay.gap
      ? []
      : replay.events.map(({ kind, group, key, parent, tiers }) => [kind, group, key, parent, tiers.join()]);
    const [k1, k2, k0] = [hexKey(keys, 0), hexKey(keys, 4), hexKey(root, 0)];
    expect(seen).toEqual([
      ["stored", 7, k1, k0, "hbm"],
      ["stored", 7, k2, k1, "hbm"],
      ["moved", 7, k2, k1, "hbm,ddr"],
      ["moved", 7, k2, k1, "ddr"],
      ["moved", 7, k2, k1, "ddr,disk"],
      ["removed", 7, k2, k1, ""],
    ]);
  });

  test("whoever applies the events knows which pages can be found, and where", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat({ max: 5 }), fc.nat({ max: 30 })), { maxLength: 80 }), (steps) => {
        const pool = new PagePool({ slots: [4, 4], pageSize: 1 });
        const events = new KvEvents();
        new PoolEvents(pool, events, 0, ["hbm", "ddr"]);
        events.record();
        for (const [what, which] of steps) stepOf(pool, what, which);
        const replay = events.replay(1);
        const known = new Map<string, string>();
        if (replay.gap) throw new Error("the ring is large enough");
        for (const { kind, key, tiers } of replay.events) {
          expect(known.has(key)).toBe(kind !== "stored");
          if (kind === "removed") known.delete(key);
          else known.set(key, tiers.join());
        }
        const real = new Map<string, string>();
        const key = new Uint32Array(4);
        for (let page = 0; page < pool.numPages; page++) {
          if (pool.state(page) < 2) continue;
          pool.key(page, key, 0);
          const tiers = ["hbm", "ddr"].filter((_, arena) => pool.isValid(page, arena));
          real.set(hexKey(key, 0), tiers.join());
        }
        expect(known).toEqual(real);
      }),
    );
  });
});

/** Some step of a pool's life: new pages, sealed ones, copies, releases, evictions. */
function stepOf(pool: PagePool, what: number, which: number): void {
  const page = which % pool.numPages;
  const isLive = pool.state(page) !== 0;
  if (what === 0 && pool.numFree > 0) pool.take();
  else if (what === 1 && isLive && pool.state(page) === 1)
    pool.seal(page, Uint32Array.of(which, 0, 0, 0), 0, NONE, new Uint32Array(4), Int32Array.of(which), 0);
  else if (what === 2 && isLive && pool.slot(page, 1) === NONE && pool.freeSlots(1) > 0) {
    pool.takeSlot(page, 1);
    pool.setValid(page, 1, true);
  } else if (what === 3 && isLive && pool.refCount(page) > 0) pool.release(page);
  else if (what === 4 && pool.victim(which % 2) !== NONE) pool.dropSlot(pool.victim(which % 2), which % 2);
  else if (what === 5 && isLive) pool.dropSlot(page, which % 2);
}
