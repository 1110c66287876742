import { describe, expect, test } from "vitest";
import { priority } from "../../lib/cache/eviction_priority.js";
import { lru } from "../../lib/cache/eviction_lru.js";
import { ACTIVE, CACHED, FREE, MARK_OUT, NONE, PagePool, SEALED } from "../../lib/cache/page_pool.js";
import { evictionPolicy, policyNames } from "../../lib/cache/eviction_policies.js";
import { expectError } from "../expect_error.js";
import { balance, chain, key, pageSize, root, sealed } from "../sealed_pages.js";

describe("eviction", () => {
  test("a cached chain goes from its end, and a shared beginning after all that follow it", () => {
    const pool = new PagePool({ slots: [8], pageSize });
    const trunk = chain(pool, [1, 2]);
    const twigs = [3, 4].map((id) => sealed(pool, id, trunk[1]));
    pool.releaseAll(Int32Array.of(...trunk, ...twigs));
    // The trunk becomes coldest: it must wait all the same.
    for (const page of twigs) pool.touch(page);
    const gone: number[] = [];
    for (let page = pool.victim(0, false); page !== NONE; page = pool.victim(0, false)) {
      expect(pool.reclaimable(0)).toBe(4 - gone.length);
      gone.push(page);
      pool.dropSlot(page, 0);
      balance(pool);
    }
    expect(gone.toSorted()).toEqual([...trunk, ...twigs].toSorted());
    expect(gone.slice(2)).toEqual([trunk[1], trunk[0]]);
  });

  test("the end of a released sequence is colder than its beginning", () => {
    const pool = new PagePool({ slots: [3], pageSize });
    const pages = [1, 2, 3].map((id) => sealed(pool, id));
    pool.releaseAll(Int32Array.from(pages));
    expect(pool.victim(0)).toBe(pages[2]);
  });

  test("a page set aside that is hit is the hottest, whatever becomes of it next", () => {
    for (const name of policyNames) {
      const pool = new PagePool({ slots: [3], pageSize, policies: [evictionPolicy(name)] });
      const [pinned, other, third] = [1, 2, 3].map((id) => sealed(pool, id)) as [number, number, number];
      pool.retain(pinned, false);
      pool.releaseAll(Int32Array.of(third, other, pinned));
      expect(pool.victim(0, false)).toBe(other);
      for (let hits = 0; hits < 3; hits++) pool.touch(pinned);
      pool.release(pinned, false);
      expect([name, pool.victim(0, false)]).toEqual([name, other]);
      balance(pool);
    }
  });

  test("a pinned page may be moved but not dropped, and is never cached", () => {
    const pool = new PagePool({ slots: [2, 2], pageSize });
    const page = sealed(pool, 1);
    pool.retain(page, false);
    pool.release(page);
    expect([pool.state(page), pool.victim(0, false), pool.victim(0)]).toEqual([SEALED, NONE, page]);
    pool.takeSlot(page, 1);
    pool.setValid(page, 1, true);
    expect(pool.victim(0, false)).toBe(page);
    pool.dropSlot(page, 0);
    expect([pool.state(page), pool.victim(1, false), pool.victim(1)]).toEqual([SEALED, NONE, page]);
    pool.release(page, false);
    expect([pool.state(page), pool.victim(1, false)]).toEqual([CACHED, page]);
  });

  test("duplicates are host copies of what the device holds, found in turns", () => {
    const pool = new PagePool({ slots: [3, 3], pageSize });
    const pages = [pool.take(), pool.take(), pool.take()];
    expect(pool.duplicate()).toBe(NONE);
    for (const page of pages) {
      pool.takeSlot(page, 1);
      pool.setValid(page, 1, true);
    }
    const epoch = pool.mark(pages[1] as number, MARK_OUT);
    expect([pool.duplicate(), pool.duplicate(), pool.duplicate()]).toEqual([pages[0], pages[2], pages[0]]);
    pool.unmark(pages[1] as number, MARK_OUT, epoch);
    expect(pool.duplicate()).toBe(pages[1]);
    pool.dropSlot(pages[2] as number, 1);
    expect(pool.duplicate()).toBe(pages[0]);
  });

  test("a page that is lost while others follow it keeps its key for them, and may come back under another id", () => {
    const pool = new PagePool({ slots: [4, 2], pageSize });
    const [first, second] = chain(pool, [1, 2]) as unknown as [number, number];
    pool.releaseAll(Int32Array.of(first, second));
    pool.dropSlot(first, 0);
    expect([pool.state(first), pool.slot(first)]).toEqual([ACTIVE, NONE]);
    expect(pool.match(Uint32Array.of(...key(1), ...key(2)), root, Int32Array.of(1, -1, 2, -2))).toEqual(new Int32Array(0));
    const parent = new Uint32Array(4);
    pool.parentKey(second, parent, 0);
    expect(parent).toEqual(key(1));
    balance(pool);
    const again = sealed(pool, 1);
    expect(again).not.toBe(first);
    expect([...pool.match(Uint32Array.of(...key(1), ...key(2)), root, Int32Array.of(1, -1, 2, -2))]).toEqual([again, second]);
    pool.dropSlot(second, 0);
    expect(pool.state(first)).toBe(FREE);
    balance(pool);
  });

  test("priorities go through the pool to the policies that know them", () => {
    let now = 0;
    const pool = new PagePool({ slots: [3], pageSize, policies: [priority({ now: () => now })] });
    const pages = [1, 2, 3].map((id) => sealed(pool, id));
    pool.setPriority(pages[0] as number, 90);
    pool.setPriority(pages[1] as number, 90, 10);
    pool.releaseAll(Int32Array.from(pages));
    expect(pool.victim(0)).toBe(pages[2]);
    now = 10;
    expect(pool.victim(0)).toBe(pages[1]);
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["priority is 101"], () => pool.setPriority(pages[0] as number, 101));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["ttlMs is -1"], () => pool.setPriority(pages[0] as number, 1, -1));
    const other = new PagePool({ slots: [3], pageSize, policies: [lru] });
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["no arena's policy is the priority policy"], () =>
      other.setPriority(other.take(), 1),
    );
  });
});
