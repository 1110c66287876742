/** Bringing what suspended sequences have in keyed tiers alone into the host pool, ahead of their return. */
import type { KeyedMoves } from "./keyed_moves.js";
import type { KvCache } from "./kv_cache.js";
import { NONE, type PagePool } from "./page_pool.js";
import type { Sequence } from "./sequence.js";

/**
 * The nearest first. Cold pages make way where that costs no copy; those of the sequences themselves were touched just now, so that they
 * are not among them as long as there are others. A page that does not come is looked for again when its sequence returns.
 */
export async function prefetch(cache: KvCache, keyed: KeyedMoves, sequences: readonly Sequence[]): Promise<void> {
  for (const sequence of sequences) {
    for (const [group, { pool }] of cache.groups.entries()) {
      if (pool.numArenas === 1 || sequence.disposed || !cache.isSuspended(sequence.row)) continue;
      const isAway = (page: number): boolean =>
        page !== NONE && !pool.isResident(page) && pool.marks(page) === 0 && keyed.holds(group, page);
      const away = [...cache.rowPages(group, sequence.row)].filter(isAway);
      const pages = away.slice(0, freeCold(pool, away.length));
      for (const page of pages) if (pool.slot(page, 1) === NONE) pool.takeSlot(page, 1);
      if (pages.length > 0) await keyed.load(group, pages);
    }
  }
}

/** Frees host slots until `want` are free, as far as pages can be dropped at once. Returns how many are free. */
function freeCold(pool: PagePool, want: number): number {
  while (pool.freeSlots(1) < want) {
    const page = pool.victim(1, false);
    if (page === NONE) break;
    pool.dropSlot(page, 1);
  }
  return pool.freeSlots(1);
}
