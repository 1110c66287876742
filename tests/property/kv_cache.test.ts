import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { KvCache } from "../../lib/cache/kv_cache.js";
import type { LayerGroup } from "../../lib/cache/page_format.js";
import type { Sequence } from "../../lib/cache/sequence.js";
import { ArrayStore } from "./array_store.js";

const pageSize = 16;
const maxPages = 14;
const window = 20;
const groups: LayerGroup[] = [
  { layers: [0, 2], numKvHeads: 2, headDim: 8, dtype: "f32" },
  { layers: [1], numKvHeads: 1, headDim: 16, dtype: "bf16", window },
];

/** What the cache must do, said with arrays: a sequence is the list of its tokens. */
interface Oracle {
  sequence: Sequence;
  tokens: number[];
}

class World {
  readonly store = new ArrayStore(groups.length, maxPages, pageSize);
  readonly cache = new KvCache({ groups, pageSize, maxPages }, this.store);
  readonly live: Oracle[] = [];
  #next = 1;

  pick(index: number): Oracle | undefined {
    return this.live[index % Math.max(1, this.live.length)];
  }

  /** Appends to several sequences in one reservation; all or nothing. */
  append(targets: Oracle[], counts: number[]): void {
    const before = JSON.stringify(this.cache.stats());
    const rows = targets.map(({ sequence }) => sequence.row);
    try {
      this.cache.reserve(rows, counts);
    } catch (error) {
      expect(error).toMatchObject({ code: "ERR_KVASIR_OUT_OF_PAGES" });
      expect(pagesOf(JSON.stringify(this.cache.stats()))).toEqual(pagesOf(before));
      return;
    }
    targets.forEach(({ sequence, tokens }, i) => {
      const count = counts[i] ?? 0;
      const fresh = Array.from({ length: count }, () => this.#next++);
      groups.forEach((_, group) => {
        const mapping = new Int32Array(count);
        this.cache.slotMapping(group, sequence.row, tokens.length, count, mapping, 0);
        fresh.forEach((token, k) => {
          const place = mapping[k] ?? -1;
          this.store.page(group, Math.floor(place / pageSize))[place % pageSize] = token;
        });
      });
      sequence.commit(count);
      tokens.push(...fresh);
    });
  }

  check(): void {
    this.cache.checkIntegrity();
    this.cache.flush();
    for (const { sequence, tokens } of this.live) {
      expect(sequence.length).toBe(tokens.length);
      groups.forEach((group, index) => {
        const start = this.cache.groups[index]?.table.rowStart(sequence.row) ?? 0;
        const first = group.window === undefined ? 0 : Math.max(0, tokens.length - (group.window - 1));
        for (let position = first; position < tokens.length; position++) {
          const slot = this.store.tables[index]?.[start + Math.floor(position / pageSize)] ?? -1;
          expect(this.store.page(index, slot)[position % pageSize]).toBe(tokens[position]);
        }
      });
    }
    const { tokens, sequences } = this.cache.stats();
    expect(sequences).toBe(this.live.length);
    expect(tokens).toBe(this.live.reduce((sum, { tokens }) => sum + tokens.length, 0));
  }
}

function pagesOf(stats: string): unknown {
  const parsed = JSON.parse(stats) as { groups: { pages: unknown }[]; tokens: number };
  return [parsed.tokens, parsed.groups.map(({ pages }) => pages)];
}

type Step = (world: World) => void;
const index = fc.nat({ max: 20 });
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.constant<Step>((world) => void world.live.push({ sequence: world.cache.createSequence(), tokens: [] })),
  fc.tuple(index, fc.nat({ max: 40 })).map(
    ([i, count]): Step =>
      (world) => {
        const target = world.pick(i);
        if (target !== undefined) world.append([target], [count]);
      },
  ),
  fc.array(fc.nat({ max: 20 }), { minLength: 1, maxLength: 4 }).map(
    (counts): Step =>
      (world) => {
        const targets = world.live.slice(0, counts.length);
        world.append(targets, counts.slice(0, targets.length));
      },
  ),
  index.map(
    (i): Step =>
      (world) => {
        const target = world.pick(i);
        if (target !== undefined) world.live.push({ sequence: target.sequence.fork(), tokens: target.tokens.slice() });
      },
  ),
  fc.tuple(index, fc.nat({ max: 60 })).map(
    ([i, drop]): Step =>
      (world) => {
        const target = world.pick(i);
        if (target === undefined) return;
        const length = Math.max(0, target.tokens.length - drop);
        try {
          target.sequence.truncate(length);
        } catch (error) {
          expect(error).toMatchObject({ code: "ERR_KVASIR_INVALID_ARGUMENT" });
          return;
        }
        target.tokens.length = length;
      },
  ),
  index.map(
    (i): Step =>
      (world) => {
        world.pick(i)?.sequence.cache.releaseBehindWindow(world.pick(i)?.sequence.row ?? 0);
      },
  ),
  fc.tuple(index, fc.nat({ max: 20 })).map(
    ([i, count]): Step =>
      (world) => {
        try {
          world.pick(i)?.sequence.reserve(count);
        } catch (error) {
          expect(error).toMatchObject({ code: "ERR_KVASIR_OUT_OF_PAGES" });
        }
      },
  ),
  index.map(
    (i): Step =>
      (world) => {
        const target = world.pick(i);
        if (target === undefined) return;
        target.sequence.dispose();
        target.sequence.dispose();
        world.live.splice(world.live.indexOf(target), 1);
      },
  ),
);

describe("KvCache", () => {
  test("behaves as lists of tokens do, and its books balance, after any operations", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const world = new World();
        for (const apply of steps) {
          apply(world);
          world.check();
        }
        for (const { sequence } of world.live) sequence.dispose();
        world.cache.checkIntegrity();
        for (const group of world.cache.stats().groups)
          expect(group.pages).toEqual({ free: maxPages, active: 0, sealed: 0, cached: 0 });
      }),
      { numRuns: 300 },
    );
  });

  test("running out of pages names need, free and remedy, and changes nothing", () => {
    const world = new World();
    const sequence = world.cache.createSequence();
    sequence.reserve(10 * pageSize);
    sequence.commit(10 * pageSize);
    const before = JSON.stringify(world.cache.stats());
    expect(() => sequence.reserve(5 * pageSize)).toThrow(
      /^Need 5 pages in group 0 but only 4 of 14 are free; dispose or truncate a sequence, or raise maxPages$/,
    );
    expect(JSON.stringify(world.cache.stats())).toBe(before);
    sequence.reserve(4 * pageSize);
    world.cache.checkIntegrity();
  });

  test("a fork shares pages and copies only the tail page, on its first write", () => {
    const world = new World();
    const parent = { sequence: world.cache.createSequence(), tokens: [] };
    world.live.push(parent);
    world.append([parent], [3 * pageSize + 5]);
    const used = (): number => world.cache.stats().groups[0]?.pages.active ?? 0;
    expect(used()).toBe(4);
    const child = { sequence: parent.sequence.fork(), tokens: parent.tokens.slice() };
    world.live.push(child);
    expect(used()).toBe(4);
    world.append([child], [1]);
    expect(used()).toBe(5);
    world.append([parent], [1]);
    expect(used()).toBe(5);
    world.check();
  });

  test("when all who share a tail page write at once, the last keeps it: no page more is asked for than is used", () => {
    const world = new World();
    const parent: Oracle = { sequence: world.cache.createSequence(), tokens: [] };
    world.live.push(parent);
    world.append([parent], [(maxPages - 2) * pageSize + 5]);
    const child: Oracle = { sequence: parent.sequence.fork(), tokens: parent.tokens.slice() };
    world.live.push(child);
    world.cache.reserve([parent.sequence.row, child.sequence.row], [1, 1]);
    expect(world.cache.stats().groups[0]?.pages.free).toBe(0);
    world.check();
  });

  test("pages that left the window return to the pool, and a truncate that would need them is refused", () => {
    const world = new World();
    const target = { sequence: world.cache.createSequence(), tokens: [] };
    world.live.push(target);
    world.append([target], [5 * pageSize]);
    expect(world.cache.releaseBehindWindow(target.sequence.row)).toBe(3);
    expect(world.cache.stats().groups.map(({ pages }) => pages.active)).toEqual([5, 2]);
    expect(() => target.sequence.truncate(pageSize)).toThrow(/pages that its window needs were released/);
    world.check();
  });

  test("stats count bytes as the store measures them", () => {
    const { cache, store } = new World();
    const stats = cache.stats();
    expect(stats.poolBytes).toBe(store.poolBytes(0) + store.poolBytes(1));
    expect(stats.bytesPerToken).toBe(stats.poolBytes / (maxPages * pageSize));
    expect(stats.groups.map(({ pageBytes }) => pageBytes)).toEqual([2 * 2 * 2 * pageSize * 8 * 4, 2 * pageSize * 16 * 2]);
    expect(stats.metadataBytes).toBeGreaterThan(maxPages * 2 * 8);
  });

  test("integrity checking sees a reference that no table holds", () => {
    const { cache } = new World();
    cache.createSequence().reserve(1);
    cache.groups[0]?.pool.retain(0);
    expect(() => cache.checkIntegrity()).toThrow(/I2: page 0 counts 2 references, tables hold 1/);
  });

  test("tables grow and rows move without losing entries", () => {
    const store = new ArrayStore(1, 4000, pageSize);
    const cache = new KvCache({ groups: [groups[0] as LayerGroup], pageSize, maxPages: 4000 }, store);
    const sequences = Array.from({ length: 40 }, () => cache.createSequence());
    for (let round = 0; round < 90; round++)
      for (const sequence of sequences) {
        sequence.reserve(pageSize);
        sequence.commit(pageSize);
      }
    cache.flush();
    cache.checkIntegrity();
    const seen = new Set<number>();
    for (const { row } of sequences) {
      const start = cache.groups[0]?.table.rowStart(row) ?? 0;
      for (let entry = 0; entry < 90; entry++) seen.add(store.tables[0]?.[start + entry] ?? -1);
    }
    expect(seen.size).toBe(40 * 90);
  });
});
