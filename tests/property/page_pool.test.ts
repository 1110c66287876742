import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { MARK_IN, MARK_LOAD, MARK_OUT, MARK_EVICT, MARK_STORE, NONE, PagePool } from "../../lib/cache/page_pool.js";
import { evictionPolicy, type PolicyName } from "../../lib/cache/eviction_policies.js";
import { KvasirError } from "../../lib/errors.js";
import { type PageClass, PoolModel, Refused } from "./pool_model.js";

const pageSize = 2;
const marks = [MARK_OUT, MARK_IN, MARK_STORE, MARK_LOAD, MARK_EVICT];

/** A key of four words that depends on all that comes before; with a small `space`, other content often has the same key. */
function keyOf(before: string, tokens: readonly number[], space: number): Uint32Array {
  let hash = 2166136261;
  for (const character of `${before}|${tokens.join()}`) hash = Math.imul(hash ^ character.charCodeAt(0), 16777619) >>> 0;
  const word = hash % space;
  return Uint32Array.of(word, Math.imul(word, 77), 3, ~word);
}

class World {
  readonly pool: PagePool;
  readonly model: PoolModel;
  readonly roots = [Uint32Array.of(1, 2, 3, 4), Uint32Array.of(1, 2, 3, 5)];
  readonly space: number;
  /** The model's orders are least recently used; of other policies only the kind of page that they choose is checked. */
  readonly isLru: boolean;

  constructor(slots: readonly number[], pages: number, space: number, policy: PolicyName = "lru") {
    this.isLru = policy === "lru";
    this.pool = new PagePool({ slots, pages, pageSize, policies: slots.map(() => evictionPolicy(policy)) });
    this.model = new PoolModel(pages, slots);
    this.space = space;
  }

  page(index: number): number {
    return index % this.pool.numPages;
  }

  arena(index: number): number {
    return index % this.pool.numArenas;
  }

  /** Ends all transfers and references, then evicts: whatever is left must go, and all pages must be free again. */
  end(): void {
    const { pool, model } = this;
    model.pages.forEach((page, id) => {
      for (const mark of marks) if ((pool.marks(id) & mark) !== 0) pool.unmark(id, mark, pool.epoch(id));
      for (let uses = page.uses; uses > 0; uses--) pool.unuse(id);
      for (let refs = page.refs; refs > 0; refs--) pool.release(id, false);
    });
    model.pages.forEach((_, id) => {
      for (let arena = 0; arena < pool.numArenas; arena++) if (!pool.isValid(id, arena)) pool.dropSlot(id, arena);
    });
    for (let page = pool.duplicate(); page !== NONE; page = pool.duplicate()) pool.dropSlot(page, 1);
    for (let arena = 0; arena < pool.numArenas; arena++) {
      for (let page = pool.victim(arena); page !== NONE; page = pool.victim(arena)) pool.dropSlot(page, arena);
      expect(pool.evictable(arena)).toBe(0);
    }
    expect(pool.counts()).toEqual({ free: pool.numPages, active: 0, sealed: 0, cached: 0 });
    expect(pool.problems(new Int32Array(pool.numPages))).toEqual([]);
  }

  /** The same on both sides: either both do it with the same result, or both refuse. */
  both<T>(ofModel: () => T, ofPool: () => T): void {
    let expected: { value: T } | undefined;
    try {
      expected = { value: ofModel() };
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
    }
    if (expected === undefined) expect(ofPool).toThrow(KvasirError);
    else expect(ofPool()).toEqual(expected.value);
  }

  create(withSlot: boolean): void {
    const { pool, model } = this;
    const make = (): number => (withSlot ? pool.take() : pool.create());
    if (model.free().length === 0 || (withSlot && model.freeSlots(0) === 0)) {
      expect(make).toThrow(/Need 1 page but 0 of \d+ are free/);
      return;
    }
    const page = make();
    expect(model.free()).toContain(page);
    model.create(page, withSlot);
  }

  takeSlot(page: number, arena: number): void {
    const { pool, model } = this;
    const { state, hasSlot } = model.at(page);
    if (state !== 0 && !model.isGone(page) && !hasSlot[arena] && model.freeSlots(arena) === 0) {
      expect(() => pool.takeSlot(page, arena)).toThrow(/Need 1 (host )?page but 0 of \d+ are free/);
    } else
      this.both(
        () => void model.takeSlot(page, arena),
        () => void pool.takeSlot(page, arena),
      );
  }

  /** Key and tokens of what may follow a page, or come first. */
  content(parent: number, root: number, choice: number): { key: Uint32Array; tokens: Int32Array } {
    const tokens = [choice, choice >> 1];
    const before = parent === NONE ? (this.roots[root] as Uint32Array).join() : this.model.at(parent).key;
    return { key: keyOf(before, tokens, this.space), tokens: Int32Array.from([9, ...tokens]) };
  }

  parent(index: number): number {
    const sealed = this.model.pages.flatMap(({ state }, id) => (state > 1 ? [id] : []));
    return index % 3 === 0 ? NONE : (sealed[index % Math.max(1, sealed.length)] ?? this.page(index));
  }

  seal(page: number, parentIndex: number, root: number, choice: number): void {
    const parent = this.parent(parentIndex);
    const { key, tokens } = this.content(parent, root, choice);
    const rootKey = this.roots[root] as Uint32Array;
    this.both(
      () => this.model.seal(page, key.join(), parent, rootKey.join(), tokens.slice(1).join()),
      () => this.pool.seal(page, Uint32Array.of(7, ...key), 1, parent, rootKey, tokens, 1),
    );
  }

  find(parentIndex: number, root: number, choice: number): void {
    const parent = this.parent(parentIndex);
    const { key, tokens } = this.content(parent, root, choice);
    const rootKey = this.roots[root] as Uint32Array;
    const found = this.model.find(key.join(), parent, rootKey.join(), tokens.slice(1).join());
    const other = this.model.holder(key.join()) !== NONE && found === NONE;
    const collisions = this.pool.collisions;
    expect(this.pool.find(key, 0, parent, rootKey, tokens, 1)).toBe(found);
    expect(this.pool.collisions).toBe(collisions + (other ? 1 : 0));
  }

  /** Matches the chain that leads to a sealed page, lengthened by something unknown. */
  match(index: number): void {
    const end = this.parent(index);
    const chain: number[] = [];
    for (let page = end; page !== NONE; page = this.model.at(page).parent) {
      if (this.model.at(page).state < 2) return; // follows a page that was lost: no chain leads there
      chain.unshift(page);
    }
    const first = chain[0];
    const root = first === undefined ? "1,2,3,4" : this.model.at(first).parentKey;
    const words = (text: string): number[] => text.split(",").map(Number);
    const keys = Uint32Array.from([...chain.flatMap((page) => words(this.model.at(page).key)), 5, 5, 5, 5]);
    const tokens = Int32Array.from([...chain.flatMap((page) => words(this.model.at(page).tokens)), 1, 1, 1]);
    const whole = this.pool.match(keys, Uint32Array.from(words(root)), tokens);
    expect([...whole]).toEqual(chain);
    const at = index % (chain.length + 1);
    const rest = this.pool.match(keys, Uint32Array.from(words(root)), tokens, { first: at, parent: chain[at - 1] ?? NONE });
    expect([...rest]).toEqual(chain.slice(at));
  }

  checkVictim(victim: number, arena: number, isMovable: boolean): void {
    const { model } = this;
    if (this.isLru) expect(victim).toBe(model.victim(arena, isMovable));
    const wanted: PageClass[] = isMovable ? ["droppable", "movable"] : ["droppable"];
    expect(victim === NONE).toBe(model.count(arena, wanted) === 0);
    if (victim === NONE) return;
    expect(model.orderFor(victim)).toBe(arena);
    expect(wanted).toContain(model.classFor(victim));
  }

  check(): void {
    const { pool, model } = this;
    const counts = (value: "refs" | "uses"): Int32Array => Int32Array.from(model.pages, (page) => page[value]);
    expect(pool.problems(counts("refs"), counts("uses"))).toEqual([]);
    const arenas = model.slots.map((_, arena) => arena);
    const expected = model.pages.map((page, id) => {
      const { state, uses, marks, epoch, tiers } = page;
      const sealed = state < 2 ? [] : [page.key, page.parentKey, page.parent, page.tokens, model.children(id)];
      return [state, uses, marks, epoch, tiers, ...page.hasSlot, ...page.valid, ...sealed].join();
    });
    const seen = model.pages.map((_, id) => {
      const tiers = (pool.hasTier(id, 1) ? 1 : 0) + (pool.hasTier(id, 2) ? 2 : 0);
      const slots = [...arenas.map((arena) => pool.slot(id, arena) !== NONE), ...arenas.map((arena) => pool.isValid(id, arena))];
      const sealed = pool.state(id) < 2 ? [] : this.#sealed(id);
      return [pool.state(id), pool.useCount(id), pool.marks(id), pool.epoch(id), tiers, ...slots, ...sealed].join();
    });
    expect(seen).toEqual(expected);
    expect(
      arenas.flatMap((arena) => [pool.freeSlots(arena), pool.droppable(arena), pool.reclaimable(arena), pool.evictable(arena)]),
    ).toEqual(
      arenas.flatMap((arena) => [
        model.freeSlots(arena),
        model.count(arena, ["droppable"]),
        model.count(arena, ["droppable", "blocked"]),
        model.count(arena, ["droppable", "blocked", "movable"]),
      ]),
    );
    expect(pool.numFree).toBe(Math.min(model.free().length, model.freeSlots(0)));
  }

  /** Key, parent's key, parent, tokens and children. */
  #sealed(id: number): (string | number)[] {
    const { pool } = this;
    const words = new Uint32Array(8);
    pool.key(id, words, 0);
    pool.parentKey(id, words, 4);
    return [
      words.subarray(0, 4).join(),
      words.subarray(4).join(),
      pool.parentOf(id),
      pool.tokensOf(id).join(),
      pool.childrenOf(id),
    ];
  }
}

/** Operations by name, so that a failing trace reads well; each takes three numbers and makes of them what it needs. */
const operations: Record<string, (world: World, a: number, b: number, c: number) => void> = {
  create: (world, a) => world.create(a % 4 !== 0),
  retain: (w, a, b) =>
    w.both(
      () => w.model.retain(w.page(a), b % 2 === 0),
      () => w.pool.retain(w.page(a), b % 2 === 0),
    ),
  release: (w, a, b) =>
    w.both(
      () => w.model.release(w.page(a), b % 2 === 0),
      () => w.pool.release(w.page(a), b % 2 === 0),
    ),
  use: (w, a) =>
    w.both(
      () => w.model.changeUses(w.page(a), 1),
      () => w.pool.use(w.page(a)),
    ),
  unuse: (w, a) =>
    w.both(
      () => w.model.changeUses(w.page(a), -1),
      () => w.pool.unuse(w.page(a)),
    ),
  takeSlot: (w, a, b) => w.takeSlot(w.page(a), w.arena(b)),
  dropSlot: (w, a, b) =>
    w.both(
      () => w.model.dropSlot(w.page(a), w.arena(b)),
      () => w.pool.dropSlot(w.page(a), w.arena(b)),
    ),
  setValid: (w, a, b, c) =>
    w.both(
      () => w.model.setValid(w.page(a), w.arena(b), c % 4 !== 0),
      () => w.pool.setValid(w.page(a), w.arena(b), c % 4 !== 0),
    ),
  dirty: (w, a) =>
    w.both(
      () => w.model.dirty(w.page(a)),
      () => w.pool.dirty(w.page(a)),
    ),
  mark: (w, a, b) =>
    w.both(
      () => w.model.mark(w.page(a), markOf(b)),
      () => void w.pool.mark(w.page(a), markOf(b)),
    ),
  unmark: (w, a, b) =>
    w.both(
      () => w.model.unmark(w.page(a), markOf(b)),
      () => w.pool.unmark(w.page(a), markOf(b), w.pool.epoch(w.page(a))),
    ),
  unmarkOld: (w, a, b) =>
    expect(() => w.pool.unmark(w.page(a), markOf(b), w.pool.epoch(w.page(a)) - 1)).toThrow(/has no transfer mark/),
  setTier: (w, a, b, c) =>
    w.both(
      () => w.model.setTier(w.page(a), 1 + (b % 2), c % 3 !== 0),
      () => w.pool.setTier(w.page(a), 1 + (b % 2), c % 3 !== 0),
    ),
  seal: (w, a, b, c) => w.seal(w.page(a), b, c % 2, c >> 1),
  find: (w, a, b, c) => w.find(a, b % 2, c),
  match: (w, a) => w.match(a),
  touch: (w, a) =>
    w.both(
      () => w.model.touch(w.page(a)),
      () => w.pool.touch(w.page(a)),
    ),
  evict: (w, a, b) => {
    const victim = w.pool.victim(w.arena(a), b % 2 === 0);
    w.checkVictim(victim, w.arena(a), b % 2 === 0);
    if (victim === NONE || b % 3 === 0) return;
    w.model.dropSlot(victim, w.arena(a));
    w.pool.dropSlot(victim, w.arena(a));
  },
  duplicate: (w, a) => {
    const page = w.pool.duplicate();
    const all = w.model.pages.flatMap((_, id) => (w.model.isDuplicate(id) ? [id] : []));
    expect(page === NONE).toBe(all.length === 0);
    if (page === NONE) return;
    expect(all).toContain(page);
    if (a % 2 === 0) return;
    w.model.dropSlot(page, 1);
    w.pool.dropSlot(page, 1);
  },
};
const markOf = (choice: number): number => marks[choice % marks.length] as number;

/** What makes chains, copies and evictions comes more often than what ends them. */
const often = ["create", "create", "seal", "seal", "seal", "release", "setValid", "takeSlot", "evict", "evict", "unmark"];
const choice = fc.nat({ max: 60 });
const trace = fc.array(fc.tuple(fc.constantFrom(...Object.keys(operations), ...often), choice, choice, choice), {
  maxLength: 150,
  size: "max",
});
const sizes = fc.record({
  slots: fc.oneof(
    fc.integer({ min: 1, max: 9 }).map((count) => [count]),
    fc.tuple(fc.integer({ min: 1, max: 6 }), fc.integer({ min: 1, max: 6 })),
  ),
  pages: fc.integer({ min: 1, max: 12 }),
  space: fc.constantFrom(3, 2 ** 31),
});

function run(policy: PolicyName, numRuns: number): void {
  fc.assert(
    fc.property(sizes, trace, ({ slots, pages, space }, steps) => {
      const world = new World(slots, pages, space, policy);
      for (const [name, a, b, c] of steps) {
        operations[name]?.(world, a, b, c);
        world.check();
      }
      world.end();
    }),
    { numRuns },
  );
}

describe("PagePool", () => {
  test("does what its rules say, and its books balance, after any operations", () => run("lru", 200));

  test.each(["lfu", "s3-fifo", "priority"] as const)("keeps its rules under the policy %s", (policy) => run(policy, 60));
});
