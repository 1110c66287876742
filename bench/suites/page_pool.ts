/** What the cache's bookkeeping costs, whatever the device: pages taken and freed, forks, prefix matches, and the choice of what to evict.
 * All of it is work of the JavaScript thread; no page's bytes move. */
import {
  type Device,
  evictionPolicy,
  KvCache,
  matchPrefix,
  NONE,
  pageKeys,
  PagePool,
  type PageStore,
  type PolicyName,
  policyNames,
} from "../../lib/index.js";
import { summarise, type Timing } from "../harness.js";
import { makeTarget, type Row, type Target } from "../results.js";

type Report = (row: Row) => void;

const pageSize = 16;
const million = 1e6;
const root = Uint32Array.of(1, 2, 3, 4);
const keyWords = 4;
/** Pages of a match between two turns of the event loop. */
const slicePages = 16384;

const poolRow = (
  op: string,
  variant: string,
  pages: number,
  timing: Timing,
  targets: Target[],
  figures: Row["figures"] = {},
): Row => ({
  op,
  variant,
  shape: { batch: 1, qoLen: 1, kvLen: pages * pageSize, qoHeads: 1, kvHeads: 1, headDim: 1, pageSize },
  dtype: "i32",
  ...timing,
  ceiling: { name: "pages", value: pages },
  share_of_ceiling: 1,
  figures,
  peers: {},
  max_abs_err: 0,
  tolerance: 0,
  pass: true,
  targets,
});

/** Times `body` `repeats` times after `warmUp` more, and lets the event loop turn in between. */
async function timed(body: () => void | Promise<void>, repeats: number, warmUp: number): Promise<Timing> {
  const samples: number[] = [];
  for (let i = -warmUp; i < repeats; i++) {
    const begin = performance.now();
    await body();
    if (i >= 0) samples.push((performance.now() - begin) * 1e3);
    await new Promise(setImmediate);
  }
  return summarise(samples);
}

/** Numbers below 2^32 from a counter, the same in every run. */
function* scattered(seed: number): Generator<number, never> {
  for (let state = seed >>> 0; ; ) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    yield (state ^ (state >>> 15)) >>> 0;
  }
}

/** Takes every page of a pool, then frees them all: last first, as a sequence ends, and in scattered order. */
async function allocFree(count: number, label: string, report: Report): Promise<void> {
  const stateBytes = (slots: number[]): number => new PagePool({ slots, pageSize }).metadataBytes / count;
  const [twoArenas, oneArena] = [stateBytes([count / 2, count / 2]), stateBytes([count])];
  const pool = new PagePool({ slots: [count], pageSize });
  const pages = new Int32Array(count);
  const scatter = new Int32Array(count).map((_, i) => i);
  const random = scattered(7);
  for (let i = count - 1; i > 0; i--) {
    const j = random.next().value % (i + 1);
    [scatter[i], scatter[j]] = [scatter[j] as number, scatter[i] as number];
  }
  for (const variant of ["in order", "scattered"] as const) {
    const timing = await timed(
      () => {
        for (let i = 0; i < count; i++) pages[i] = pool.take();
        pool.releaseAll(variant === "in order" ? pages : scatter);
      },
      count > 4 * million ? 3 : 15,
      1,
    );
    const rate = count / timing.median_us;
    const targets = [makeTarget("bytes of state a page, two arenas", twoArenas, { at_most: 64 })];
    if (variant === "in order") targets.push(makeTarget("million pages/s taken and freed", rate, { at_least: 5 }));
    const figures = { "Mpages/s": rate, "bytes/page": twoArenas, "bytes/page of one arena": oneArena };
    report(poolRow("page_alloc_free", `${label} pages, ${variant}`, count, timing, targets, figures));
  }
}

/** A store that keeps nothing: what is timed is the cache's own work. */
const noStore: PageStore = {
  poolBytes: () => 0,
  tableBytes: () => 0,
  copyPage: () => {},
  resizeTable: () => {},
  writeTable: () => {},
};

async function fork(report: Report): Promise<void> {
  const pages = Math.ceil(million / pageSize);
  const groups = [{ layers: [0], numKvHeads: 1, headDim: 8, dtype: "f32" as const }];
  const cache = new KvCache({ groups, pageSize, maxPages: 2 * pages }, noStore);
  const parent = cache.createSequence();
  parent.reserve(million);
  parent.commit(million);
  cache.flush();
  const samples: number[] = [];
  const frees: number[] = [];
  for (let i = -20; i < 100; i++) {
    const begin = performance.now();
    const child = parent.fork();
    const end = performance.now();
    child.dispose();
    const freed = performance.now();
    if (i < 0) continue;
    samples.push((end - begin) * 1e3);
    frees.push((freed - end) * 1e3);
  }
  const timing = summarise(samples);
  const targets = [makeTarget("milliseconds a fork", timing.median_us / 1e3, { at_most: 1 })];
  report(poolRow("sequence_fork", "1 M tokens", pages, timing, targets, { dispose_us: summarise(frees).median_us }));
}

/** Ids, keys and tokens of `count` pages in one chain. */
async function chainOf(count: number): Promise<{ tokens: Int32Array; keys: Uint32Array }> {
  const random = scattered(11);
  const tokens = Int32Array.from({ length: count * pageSize }, () => random.next().value % 128_000);
  return { tokens, keys: await pageKeys(tokens, pageSize, root) };
}

async function prefixMatch(report: Report): Promise<void> {
  const count = Math.ceil(million / pageSize);
  const pool = new PagePool({ slots: [2 ** 20], pageSize });
  // The chain lies among the pages of others, at scattered ids.
  const others = Array.from({ length: 2 ** 19 }, () => pool.take());
  for (let i = 0; i < others.length; i += 4) pool.release(others[i] as number);
  const { tokens, keys } = await chainOf(count);
  let parent: number = NONE;
  for (let i = 0; i < count; i++) parent = pool.seal(pool.take(), keys, i * keyWords, parent, root, tokens, i * pageSize);
  const slices: number[] = [];
  const match = async (given: Uint32Array): Promise<void> => {
    let found = 0;
    for (let last: number = NONE, more = true; more; ) {
      const begin = performance.now();
      const part = pool.match(given, root, tokens, { first: found, parent: last, limit: slicePages });
      slices.push(performance.now() - begin);
      found += part.length;
      last = part.at(-1) ?? NONE;
      more = part.length === slicePages;
      if (more) await new Promise(setImmediate);
    }
    if (found !== count) throw new Error(`matched ${found} of ${count} pages`);
  };
  const timing = await timed(() => match(keys), 60, 10);
  const slice = summarise(slices).p95_us;
  const targets = [makeTarget("milliseconds of the JavaScript thread at a time, p95", slice, { at_most: 5 })];
  const figures = { "Mlookups/s": count / timing.median_us };
  report(poolRow("prefix_match", "1 M tokens, keys given", count, timing, targets, figures));
  const samples: number[] = [];
  for (let i = -10; i < 60; i++) {
    const begin = performance.now();
    const found = await matchPrefix(pool, tokens, root);
    if (i >= 0) samples.push((performance.now() - begin) * 1e3);
    if (found.length !== count) throw new Error(`matched ${found.length} of ${count} pages`);
    for (const page of found.reverse()) pool.release(page, false);
    await new Promise(setImmediate);
  }
  const whole = summarise(samples);
  const bound = [makeTarget("milliseconds with hashing", whole.median_us / 1e3, { at_most: 20 })];
  report(poolRow("prefix_match", "1 M tokens, with hashing", count, whole, bound));
}

/** A pool whose slots all hold cached pages of their own; `next` seals and releases one more. */
function cachedPool(policy: PolicyName, count: number): { pool: PagePool; next: () => void } {
  const pool = new PagePool({ slots: [count], pageSize, policies: [evictionPolicy(policy)] });
  const random = scattered(13);
  const key = new Uint32Array(keyWords);
  const tokens = new Int32Array(pageSize);
  const next = (): void => {
    for (let i = 0; i < keyWords; i++) key[i] = random.next().value;
    const page = pool.take();
    pool.seal(page, key, 0, NONE, root, tokens, 0);
    if (policy === "priority") pool.setPriority(page, (key[0] as number) % 101, (key[1] as number) % 2 === 0 ? 1000 : undefined);
    pool.release(page);
  };
  for (let i = 0; i < count; i++) next();
  return { pool, next };
}

/** Times the choice of a victim while pages come, go and are hit. */
async function eviction(policy: PolicyName, report: Report): Promise<void> {
  const count = 2 ** 20;
  const { pool, next } = cachedPool(policy, count);
  const random = scattered(17);
  const samples: number[] = [];
  for (let i = -50_000; i < 300_000; i++) {
    pool.touch(random.next().value % count);
    const begin = performance.now();
    const victim = pool.victim(0, false);
    const end = performance.now();
    pool.dropSlot(victim, 0);
    next();
    if (i >= 0) samples.push((end - begin) * 1e3);
  }
  const sorted = samples.toSorted((a, b) => a - b);
  const p99 = sorted[Math.floor(0.99 * sorted.length)] as number;
  const targets = [makeTarget("p99 microseconds a choice", p99, { at_most: 2 })];
  const figures = { p99_us: p99, max_us: sorted.at(-1) as number, "bytes/page": pool.metadataBytes / count };
  report(poolRow("evict_choice", policy, count, summarise(samples), targets, figures));
}

export async function pagePool(_device: Device, _ceilings: Record<string, number>, report: Report): Promise<void> {
  await allocFree(2 ** 20, "1 M", report);
  await allocFree(2 ** 24, "16 M", report);
  await fork(report);
  await prefixMatch(report);
  for (const policy of policyNames) await eviction(policy, report);
}
