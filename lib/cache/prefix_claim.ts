/**
 * Finding what is cached of a prompt: the longest chain of sealed pages in the pools, then its continuation in the keyed tiers. A claim
 * refers to its pages from the moment they are found, so that none of them can go before they are used.
 */
import { ComingKeys } from "./coming_keys.js";
import type { KvCache } from "./kv_cache.js";
import { type KeyedMoves, tierBit } from "./keyed_moves.js";
import { NONE, type PagePool } from "./page_pool.js";
import { KEY_WORDS } from "./tier_driver.js";

/** Pages that are looked up between two turns of the event loop. */
const slicePages = 4096;

export interface Claim {
  /** Pages of each group, equally many; one reference each is the claim's. */
  pages: number[][];
}

/** Claims the longest prefix that every group has. `tokens` are those of the full pages that `keys` stand for. */
export async function claimPrefix(
  cache: KvCache,
  keyed: KeyedMoves,
  root: Uint32Array,
  keys: ComingKeys,
  tokens: Int32Array,
  signal?: AbortSignal,
): Promise<Claim> {
  const pools = cache.groups.map(({ pool }) => pool);
  const claim: Claim = { pages: pools.map(() => []) };
  cache.holdElsewhere(claim.pages);
  try {
    for (const [group, pool] of pools.entries()) await matchChain(pool, claim.pages[group] as number[], root, keys, tokens);
    cut(claim, pools);
    await keys.upTo(keys.count);
    await extend(claim, pools, keyed, root, keys.words, tokens, signal);
  } catch (error) {
    dropClaim(claim, cache);
    throw error;
  }
  return claim;
}

/**
 * Pages of a pool with the longest prefix of `tokens`, full pages only, in order; each has a reference more, which the caller releases
 * (`pool.release(page, false)`). Keys are hashed on a native thread, and looked up some thousand at a time between turns of the event loop.
 *
 * @example
 * ```ts
 * import { matchPrefix, PagePool, pageKeys } from "kvasir";
 *
 * const pool = new PagePool({ slots: [100], pageSize: 16 });
 * const root = Uint32Array.of(1, 2, 3, 4);
 * const tokens = Int32Array.from({ length: 64 }, (_, i) => i);
 * const keys = await pageKeys(tokens, 16, root);
 * pool.seal(pool.take(), keys, 0, -1, root, tokens, 0);
 * console.log(await matchPrefix(pool, tokens, root)); // [ 0 ]
 * ```
 */
export async function matchPrefix(pool: PagePool, tokens: Int32Array, root: Uint32Array): Promise<number[]> {
  const found: number[] = [];
  await matchChain(pool, found, root, ComingKeys.hash(tokens, pool.pageSize, root), tokens);
  return found;
}

/**
 * The longest chain of `tokens` in a pool, some pages at a time, into `found`; each is referred to at once, so that nobody drops it.
 * Keys that have come are looked up while the next ones are hashed.
 */
async function matchChain(
  pool: PagePool,
  found: number[],
  root: Uint32Array,
  keys: ComingKeys,
  tokens: Int32Array,
): Promise<void> {
  while (found.length < keys.count) {
    const limit = Math.min(slicePages, keys.count - found.length);
    await keys.upTo(found.length + limit);
    const part = pool.match(keys.words, root, tokens, { first: found.length, parent: found.at(-1) ?? NONE, limit });
    pool.retainAll(part, false);
    for (let i = 0; i < part.length; i++) found.push(part[i] as number); // an iterator takes as long as the match
    if (part.length < limit || found.length === keys.count) return;
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Lets go of everything claimed. */
export function dropClaim(claim: Claim, cache: KvCache): void {
  cache.letGoElsewhere(claim.pages);
  claim.pages.forEach((pages, group) => {
    for (const page of pages.splice(0).reverse()) cache.groups[group]?.pool.release(page, false);
  });
}

/** Shortens the groups' chains to the shortest. */
function cut(claim: Claim, pools: readonly PagePool[]): void {
  const shared = Math.min(...claim.pages.map(({ length }) => length));
  claim.pages.forEach((pages, group) => {
    for (const page of pages.splice(shared).reverse()) pools[group]?.release(page, false);
  });
}

/** Adds pages that only keyed tiers hold: known by their keys, with no bytes here yet. */
async function extend(
  claim: Claim,
  pools: readonly PagePool[],
  keyed: KeyedMoves,
  root: Uint32Array,
  keys: Uint32Array,
  tokens: Int32Array,
  signal?: AbortSignal,
): Promise<void> {
  const from = (claim.pages[0] as number[]).length;
  const left = keys.slice(from * KEY_WORDS);
  if (left.length === 0 || keyed.drivers.length === 0) return;
  const tiers = await Promise.all(pools.map((_, group) => keyed.lookup(group, left, signal)));
  const pageSize = tokens.length / (keys.length / KEY_WORDS);
  for (let i = 0; i < left.length / KEY_WORDS; i++) {
    if (tiers.some((bits) => bits[i] === 0)) break;
    // Another sequence may have brought or made the page while the tiers were asked.
    const isAdded = pools.every((pool, group) => {
      const parent = from + i === 0 ? NONE : (claim.pages[group]?.[from + i - 1] as number);
      const place = { at: (from + i) * KEY_WORDS, from: (from + i) * pageSize, parent };
      const known = pool.find(keys, place.at, parent, root, tokens, place.from);
      if (known !== NONE) pool.retain(known, false);
      const page = known !== NONE ? known : announce(pool, place, root, keys, tokens);
      if (page === NONE) return false;
      keyed.drivers.forEach((driver) => {
        if (((tiers[group]?.[i] as number) & tierBit(driver)) !== 0) pool.setTier(page, tierBit(driver), true);
      });
      (claim.pages[group] as number[]).push(page);
      return true;
    });
    if (!isAdded) break;
  }
  cut(claim, pools);
}

/** A page under its key before its bytes are here; NONE where no page is free, or the key stands for other tokens. */
function announce(
  pool: PagePool,
  place: { at: number; from: number; parent: number },
  root: Uint32Array,
  keys: Uint32Array,
  tokens: Int32Array,
): number {
  if (pool.numFreePages === 0) return NONE;
  const page = pool.create();
  pool.unuse(page);
  if (pool.seal(page, keys, place.at, place.parent, root, tokens, place.from) === page) return page;
  pool.release(page, false);
  return NONE;
}
