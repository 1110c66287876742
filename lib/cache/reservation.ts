/** Making room for tokens at the end of rows: new pages, and private copies of pages that others see too. */
import type { CacheGroup } from "./kv_cache.js";
import { NONE, type PagePool, SEALED } from "./page_pool.js";
import type { PageStore } from "./page_store.js";
import type { Rows } from "./rows.js";

/** Pages that rows need in a group to take so many more tokens each. */
export function pagesNeeded(
  group: CacheGroup,
  rows: Rows,
  pageSize: number,
  some: readonly number[],
  tokens: readonly number[],
): number {
  let need = 0;
  const writers = new Map<number, number>();
  some.forEach((row, i) => {
    const length = rows.lengths[row] as number;
    const count = tokens[i] as number;
    need += Math.max(0, Math.ceil((length + count) / pageSize) - group.table.rowLength(row));
    const tail = sharedTail(group, rows, pageSize, row, count);
    if (tail !== NONE) writers.set(tail, (writers.get(tail) ?? 0) + 1);
  });
  for (const [page, count] of writers) {
    // When everyone who shares a page writes to it, the last one keeps the original, unless it is sealed.
    const keepsOne = count === group.pool.refCount(page) && group.pool.state(page) !== SEALED;
    need += keepsOne ? count - 1 : count;
  }
  return need;
}

/** Lets pages go that need no copy first, where that makes `need` pages free. Returns how many are. */
export function freeUp(pool: PagePool, need: number): number {
  if (pool.freeSlots(0) + pool.reclaimable(0) < need) return pool.numFree;
  while (pool.freeSlots(0) < need) {
    const victim = pool.victim(0, false);
    const page = victim === NONE ? pool.blockedVictim(0) : victim;
    if (page === NONE) break;
    pool.dropSlot(page, 0);
  }
  while (pool.numFreePages < need && pool.forgetCached());
  return pool.numFree;
}

/** Gives the row pages for `tokens` more tokens that it alone may write. */
export function extendRow(
  group: CacheGroup,
  index: number,
  store: PageStore,
  rows: Rows,
  pageSize: number,
  row: number,
  tokens: number,
): void {
  if (tokens === 0) return;
  const length = rows.lengths[row] as number;
  const { pool, table } = group;
  const tail = Math.floor(length / pageSize);
  const shared = sharedTail(group, rows, pageSize, row, tokens);
  if (shared !== NONE) {
    const copy = pool.take();
    const slot = pool.slot(copy);
    store.copyPage(index, pool.slot(shared), slot);
    table.set(row, tail, copy, slot);
    pool.release(shared);
  } else if (length % pageSize !== 0) pool.dirty(table.page(row, tail));
  const end = Math.ceil((length + tokens) / pageSize);
  for (let have = table.rowLength(row); have < end; have++) {
    const page = pool.take();
    table.push(row, page, pool.slot(page));
  }
}

/** The partly filled page that the row would write into next, if it must not: others refer to it, or it is sealed. */
function sharedTail(group: CacheGroup, rows: Rows, pageSize: number, row: number, tokens: number): number {
  const length = rows.lengths[row] as number;
  if (tokens === 0 || length % pageSize === 0) return NONE;
  const page = group.table.page(row, Math.floor(length / pageSize));
  return group.pool.refCount(page) > 1 || group.pool.state(page) === SEALED ? page : NONE;
}
