import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { EvictionPolicy, PolicyFactory } from "../../lib/cache/eviction.js";
import { lfu } from "../../lib/cache/eviction_lfu.js";
import { lru } from "../../lib/cache/eviction_lru.js";
import { priority } from "../../lib/cache/eviction_priority.js";
import { s3Fifo } from "../../lib/cache/eviction_s3_fifo.js";
import { NONE, PageLists } from "../../lib/cache/page_lists.js";
import { PrefixIndex } from "../../lib/cache/prefix_index.js";
import { LfuModel, LruModel, type PolicyModel, PriorityModel, S3FifoModel } from "./policy_models.js";

const numPages = 12;
/** A ghost list of four keys is one set of the table: exact. */
const slots = 4;
let clock = 0;
const now = (): number => clock;

const cases: readonly [string, PolicyFactory, () => PolicyModel][] = [
  ["lru", lru, () => new LruModel()],
  ["lfu", lfu, () => new LfuModel()],
  ["s3-fifo", s3Fifo, () => new S3FifoModel(slots)],
  ["priority", priority({ now }), () => new PriorityModel(now)],
];

function makePolicy(factory: PolicyFactory, pages = numPages, arena = slots): EvictionPolicy {
  const index = new PrefixIndex(pages, 1);
  for (let page = 0; page < pages; page++)
    index.add(page, Uint32Array.of(page, 1 + page, 0, 0), 0, NONE, new Uint32Array(4), Int32Array.of(page), 0);
  return factory.create({ lists: new PageLists(pages, factory.numLists), firstList: 0, slots: arena, index });
}

type Step = readonly [name: string, page: number, number: number];
const names = [
  "insert",
  "insert",
  "insert",
  "insertCold",
  "remove",
  "touch",
  "touch",
  "touch",
  "evict",
  "evict",
  "forget",
  "setPriority",
  "wait",
];
const trace = fc.array(fc.tuple(fc.constantFrom(...names), fc.nat({ max: numPages - 1 }), fc.nat({ max: 150 })), {
  maxLength: 200,
  size: "max",
});

/** One step on both sides; `listed` is what the order holds. */
function apply(policy: EvictionPolicy, model: PolicyModel, listed: Set<number>, [name, page, number]: Step, at: number): void {
  const isListed = listed.has(page);
  if (name === "insert" && !isListed) {
    policy.insert(page);
    model.insert(page, false);
    listed.add(page);
  } else if (name === "insertCold" && !isListed) {
    policy.insertCold(page);
    model.insert(page, true);
    listed.add(page);
  } else if (name === "remove" && isListed) {
    policy.remove(page);
    model.remove(page);
    listed.delete(page);
  } else if (name === "touch") {
    policy.touch(page, isListed);
    model.touch(page);
  } else if (name === "evict") {
    const victim = policy.coldest();
    expect(victim).toBe(model.coldest() ?? NONE);
    expect(policy.coldest()).toBe(victim);
    if (victim === NONE) return;
    policy.remove(victim);
    policy.evicted(victim);
    model.remove(victim);
    model.evicted(victim);
    listed.delete(victim);
  } else if (name === "forget" && !isListed) {
    policy.forget?.(page);
    model.forget(page);
  } else if (name === "setPriority" && policy.setPriority !== undefined) {
    // No two times are equal: pages that expire at the same moment have no order.
    const ttl = number % 3 === 0 ? undefined : number + at / 1000;
    policy.setPriority(page, number % 101, ttl);
    model.setPriority?.(page, number % 101, ttl);
  } else if (name === "wait") clock += number;
}

describe.each(cases)("%s", (_, factory, makeModel) => {
  test("chooses what its definition says, after any operations", () => {
    fc.assert(
      fc.property(trace, (steps) => {
        clock = 0;
        const policy = makePolicy(factory);
        const model = makeModel();
        const listed = new Set<number>();
        steps.forEach((step, at) => {
          apply(policy, model, listed, step, at);
          expect([...policy.pages()].sort((a, b) => a - b)).toEqual([...listed].sort((a, b) => a - b));
        });
        for (let left = listed.size; left > 0; left--) apply(policy, model, listed, ["evict", 0, 0], steps.length);
        expect(listed.size).toBe(0);
      }),
      { numRuns: 300 },
    );
  });
});

/** Share of hits of a stream of pages through an arena of `room` pages, after the first `warmUp` of them. */
function hitRate(factory: PolicyFactory, stream: readonly number[], room: number, warmUp = 0): number {
  const policy = makePolicy(factory, Math.max(...stream) + 1, room);
  const held = new Set<number>();
  let hits = 0;
  for (const [i, page] of stream.entries()) {
    if (held.has(page)) {
      if (i >= warmUp) hits++;
      policy.touch(page, true);
      continue;
    }
    if (held.size === room) {
      const victim = policy.coldest();
      policy.remove(victim);
      policy.evicted(victim);
      policy.forget?.(victim);
      held.delete(victim);
    }
    policy.insert(page);
    held.add(page);
  }
  return hits / (stream.length - warmUp);
}

test("a scan over many pages flushes LRU, but not S3-FIFO or LFU", () => {
  const room = 100;
  const hot = Array.from({ length: 80 }, (_, i) => i);
  const stream = Array.from({ length: 16 }, () => hot).flat();
  const warmUp = stream.length;
  for (let round = 0; round < 20; round++) {
    for (let i = 0; i < 200; i++) stream.push(100 + round * 200 + i);
    stream.push(...hot);
  }
  const [ofLru, ofLfu, ofS3] = [lru, lfu, s3Fifo].map((factory) => hitRate(factory, stream, room, warmUp));
  const best = 80 / 280;
  expect(ofLru).toBe(0);
  expect(ofS3).toBeGreaterThan(0.9 * best);
  expect(ofLfu).toBeGreaterThan(0.9 * best);
});

test("LFU ages: pages that were popular once make room for those that are now", () => {
  const early = Array.from({ length: 50 }, (_, i) => i);
  const late = early.map((page) => 50 + page);
  const often = (pages: readonly number[], times: number): number[] => Array.from({ length: times }, () => pages).flat();
  expect(hitRate(lfu, [...often(early, 50), ...often(late, 50)], 60)).toBeGreaterThan(0.8);
});
