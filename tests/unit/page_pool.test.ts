import { describe, expect, test } from "vitest";
import { evictionPolicy } from "../../lib/cache/eviction_policies.js";
import {
  ACTIVE,
  CACHED,
  FREE,
  MARK_IN,
  MARK_LOAD,
  MARK_OUT,
  MARK_EVICT,
  NONE,
  PagePool,
  SEALED,
  TIER_DISK,
} from "../../lib/cache/page_pool.js";
import { expectError } from "../expect_error.js";
import { balance, chain, key, pageSize, root, sealed, tokensOf } from "../sealed_pages.js";

describe("the life of a page", () => {
  test("a released page that was not sealed is free; a sealed one is found again", () => {
    const pool = new PagePool({ slots: [4], pageSize });
    const [plain, first] = [pool.take(), sealed(pool, 5)];
    pool.releaseAll(Int32Array.of(plain, first));
    expect([pool.state(plain), pool.state(first)]).toEqual([FREE, CACHED]);
    expect(pool.find(key(5), 0, NONE, root, tokensOf(5), 0)).toBe(first);
    pool.retain(first);
    expect([pool.state(first), pool.refCount(first), pool.evictable(0)]).toEqual([SEALED, 1, 0]);
    balance(pool);
  });

  test("the epoch tells a page from the one that had its id before", () => {
    const pool = new PagePool({ slots: [1], pageSize });
    const page = pool.take();
    const before = pool.epoch(page);
    pool.release(page);
    expect(pool.take()).toBe(page);
    expect(pool.epoch(page)).toBe(before + 1);
  });

  test("counts are checked: no use without a reference, no reference less than none", () => {
    const pool = new PagePool({ slots: [2], pageSize });
    const page = pool.take();
    expectError("ERR_KVASIR_INTERNAL", [`Page ${page} has no reference that is not a use`], () => pool.use(page));
    expectError("ERR_KVASIR_INTERNAL", ["loses a reference that it does not have"], () => pool.release(page, false));
    pool.unuse(page);
    expectError("ERR_KVASIR_INTERNAL", ["loses a use"], () => pool.release(page));
    pool.release(page, false);
    expectError("ERR_KVASIR_INTERNAL", [`Page ${page} is not in use`], () => pool.retain(page));
    expectError("ERR_KVASIR_INTERNAL", ["is not in use"], () => pool.refCount(99));
    balance(pool);
  });

  test("sizes, arenas and full pools are refused in one sentence", () => {
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["slots.length is 3"], () => new PagePool({ slots: [1, 1, 1], pageSize }));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", [/slots\[1\] is 0/], () => new PagePool({ slots: [1, 0], pageSize }));
    const pool = new PagePool({ slots: [1, 1], pages: 3, pageSize });
    const page = pool.take();
    expectError("ERR_KVASIR_OUT_OF_PAGES", ["Need 1 page but 0 of 1 are free"], () => pool.take());
    expect(pool.counts().free).toBe(2);
    pool.takeSlot(pool.create(), 1);
    expectError("ERR_KVASIR_OUT_OF_PAGES", ["Need 1 host page but 0 of 1 are free"], () => pool.takeSlot(page, 1));
    expectError("ERR_KVASIR_INTERNAL", ["Arena 2 of 2 does not exist"], () => pool.freeSlots(2));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ['policy is "mru", expected lru, lfu, s3-fifo, priority'], () =>
      evictionPolicy("mru" as never),
    );
  });
});

describe("transfers", () => {
  test("a page that is dropped while a transfer runs keeps its slots until the last mark ends", () => {
    const pool = new PagePool({ slots: [2, 2], pageSize });
    const page = pool.take();
    pool.takeSlot(page, 1);
    const [out, share] = [pool.mark(page, MARK_OUT), pool.mark(page, MARK_EVICT)];
    pool.release(page);
    expect([pool.state(page), pool.usedSlots(0), pool.usedSlots(1)]).toEqual([ACTIVE, 1, 1]);
    expectError("ERR_KVASIR_INTERNAL", ["is not in use"], () => pool.retain(page));
    pool.setValid(page, 1, true); // late, and without effect
    expect(pool.unmark(page, MARK_OUT, out)).toBe(false);
    expect(pool.usedSlots(0)).toBe(1);
    balance(pool);
    expect(pool.unmark(page, MARK_EVICT, share)).toBe(false);
    expect([pool.state(page), pool.usedSlots(0), pool.usedSlots(1)]).toEqual([FREE, 0, 0]);
    expectError("ERR_KVASIR_INTERNAL", ["has no transfer mark"], () => pool.unmark(page, MARK_EVICT, share));
    balance(pool);
  });

  test("a sealed page whose load fails after its sequence has gone is dropped with its mark", () => {
    const pool = new PagePool({ slots: [2, 2], pageSize });
    const page = sealed(pool, 3);
    pool.setTier(page, TIER_DISK, true);
    pool.unuse(page);
    pool.dropSlot(page, 0);
    pool.takeSlot(page, 1);
    const epoch = pool.mark(page, MARK_LOAD);
    pool.release(page, false);
    expect(pool.state(page)).toBe(CACHED);
    expect(pool.unmark(page, MARK_LOAD, epoch)).toBe(true);
    expect([pool.state(page), pool.usedSlots(1)]).toEqual([FREE, 0]);
    expect(pool.find(key(3), 0, NONE, root, tokensOf(3), 0)).toBe(NONE);
    balance(pool);
  });

  test("slots that a transfer touches cannot be given up; others can", () => {
    const pool = new PagePool({ slots: [2, 2], pageSize });
    const page = pool.take();
    pool.takeSlot(page, 1);
    pool.setValid(page, 1, true);
    const share = pool.mark(page, MARK_EVICT);
    expectError("ERR_KVASIR_INTERNAL", ["is in a transfer; its slot in arena 1"], () => pool.dropSlot(page, 1));
    const out = pool.mark(page, MARK_IN);
    expectError("ERR_KVASIR_INTERNAL", ["is in a transfer; its slot in arena 0"], () => pool.dropSlot(page, 0));
    pool.unmark(page, MARK_IN, out);
    pool.dropSlot(page, 0);
    expect([pool.slot(page, 0), pool.slot(page, 1) !== NONE]).toEqual([NONE, true]);
    pool.unmark(page, MARK_EVICT, share);
    balance(pool);
  });

  test("a mark does not make a cold page hot", () => {
    const pool = new PagePool({ slots: [3], pageSize });
    const pages = Int32Array.of(sealed(pool, 1), sealed(pool, 2), sealed(pool, 3));
    for (const page of pages) pool.release(page);
    const cold = pool.victim(0);
    expect(cold).toBe(pages[0]);
    const epoch = pool.mark(cold, MARK_EVICT);
    expect([pool.victim(0), pool.evictable(0)]).toEqual([pages[1], 2]);
    pool.unmark(cold, MARK_EVICT, epoch);
    expect(pool.victim(0)).toBe(cold);
  });

  test("dirty makes the host copy stale but keeps its slot, and never touches a sealed page", () => {
    const pool = new PagePool({ slots: [2, 2], pageSize });
    const page = pool.take();
    const slot = pool.takeSlot(page, 1);
    pool.setValid(page, 1, true);
    pool.dirty(page);
    expect([pool.isValid(page, 0), pool.isValid(page, 1), pool.slot(page, 1)]).toEqual([true, false, slot]);
    pool.seal(page, key(1), 0, NONE, root, tokensOf(1), 0);
    expectError("ERR_KVASIR_INTERNAL", ["is sealed and cannot change"], () => pool.dirty(page));
  });
});

describe("sealing", () => {
  test("the same content under the same key is one page; other content is a counted collision and no hit", () => {
    const pool = new PagePool({ slots: [6], pageSize });
    const first = sealed(pool, 1);
    const twin = pool.take();
    expect(pool.seal(twin, key(1), 0, NONE, root, tokensOf(1), 0)).toBe(first);
    expect([pool.state(twin), pool.collisions]).toEqual([ACTIVE, 0]);
    const otherRoot = Uint32Array.of(1, 1, 1, 2);
    const forced: [number, Uint32Array, Int32Array][] = [
      [NONE, root, tokensOf(2)],
      [NONE, otherRoot, tokensOf(1)],
      [first, root, tokensOf(1)],
    ];
    for (const [i, [parent, from, tokens]] of forced.entries()) {
      expect(pool.seal(twin, key(1), 0, parent, from, tokens, 0)).toBe(NONE);
      expect(pool.find(key(1), 0, parent, from, tokens, 0)).toBe(NONE);
      expect([pool.state(twin), pool.collisions]).toEqual([ACTIVE, 2 * (i + 1)]);
    }
    expect(pool.find(key(1), 0, NONE, root, tokensOf(1), 0)).toBe(first);
    balance(pool);
  });

  test("only an active page can be sealed, and only after a sealed one", () => {
    const pool = new PagePool({ slots: [3], pageSize });
    const [first, plain] = [sealed(pool, 1), pool.take()];
    expectError("ERR_KVASIR_INTERNAL", [`Page ${first} is sealed already`], () =>
      pool.seal(first, key(2), 0, NONE, root, tokensOf(2), 0),
    );
    expectError("ERR_KVASIR_INTERNAL", [`Page ${plain} is not sealed and cannot be a parent`], () =>
      pool.seal(pool.take(), key(2), 0, plain, root, tokensOf(2), 0),
    );
    for (const read of [() => pool.key(plain, key(0), 0), () => pool.tokensOf(plain), () => pool.parentOf(plain)])
      expectError("ERR_KVASIR_INTERNAL", ["is not sealed and has no key"], read);
    expectError("ERR_KVASIR_INTERNAL", ["has no key under which a tier"], () => pool.setTier(plain, TIER_DISK, true));
  });

  test("a page that is not sealed is no parent, though it had the right key in an earlier life", () => {
    const pool = new PagePool({ slots: [3], pageSize });
    const before = sealed(pool, 1);
    pool.release(before);
    pool.dropSlot(before, 0);
    expect(pool.take()).toBe(before);
    const [parent, child] = chain(pool, [1, 2]) as unknown as [number, number];
    expect(pool.find(key(2), 0, parent, root, tokensOf(2), 0)).toBe(child);
    expect(pool.find(key(2), 0, before, root, tokensOf(2), 0)).toBe(NONE);
  });

  test("a match ends with the keys, the tokens, or the first page that is not there", () => {
    const pool = new PagePool({ slots: [4], pageSize });
    const pages = [...chain(pool, [1, 2, 3])];
    const keys = Uint32Array.of(...key(1), ...key(2), ...key(3));
    const tokens = Int32Array.of(1, -1, 2, -2, 3, -3);
    expect([...pool.match(keys, root, tokens)]).toEqual(pages);
    expect([...pool.match(keys.subarray(0, 8), root, tokens)]).toEqual(pages.slice(0, 2));
    expect([...pool.match(keys, root, tokens.subarray(0, 5))]).toEqual(pages.slice(0, 2));
    expect([...pool.match(keys, key(9), tokens)]).toEqual([]);
    expect([...pool.match(keys, root, tokens, { limit: 2 })]).toEqual(pages.slice(0, 2));
    expect([...pool.match(keys, root, tokens, { first: 2, parent: pages[1] as number, limit: 5 })]).toEqual(pages.slice(2));
    expect([...pool.match(keys, root, tokens, { first: 1 })]).toEqual([]);
    expect([...pool.match(keys, root, tokens, { first: 4, parent: pages[2] as number })]).toEqual([]);
    expect([...pool.match(new Uint32Array(0), root, new Int32Array(0))]).toEqual([]);
  });

  test("many roots come and go", () => {
    const pool = new PagePool({ slots: [100], pageSize });
    let bytes = 0;
    for (let round = 0; round < 3; round++) {
      const pages = Array.from({ length: 100 }, (_, i) => {
        const page = pool.take();
        return pool.seal(page, key(1 + i), 0, NONE, Uint32Array.of(round, i, 0, 0), tokensOf(i), 0);
      });
      const own = new Uint32Array(4);
      for (const [i, page] of pages.entries()) {
        pool.parentKey(page, own, 0);
        expect([...own]).toEqual([round, i, 0, 0]);
        expect(pool.find(key(1 + i), 0, NONE, own, tokensOf(i), 0)).toBe(page);
        pool.release(page);
        pool.dropSlot(page, 0);
      }
      balance(pool);
      if (round === 0) bytes = pool.metadataBytes;
    }
    expect([pool.numFree, pool.metadataBytes]).toEqual([100, bytes]);
  });
});

test("a page takes at most 64 bytes of state, token ids apart", () => {
  for (const slots of [[1 << 16], [1 << 15, 1 << 15], [100_000], [1000, 99_000]]) {
    const pool = new PagePool({ slots, pageSize });
    expect(pool.metadataBytes / pool.numPages).toBeLessThanOrEqual(64);
    expect(pool.tokenBytes).toBe(0);
  }
});
