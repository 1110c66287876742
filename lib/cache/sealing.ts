/**
 * Sealing: a full page whose tokens are known gets its key and never changes again, so that other sequences can find and share it. Where
 * another page has the key already, the row goes over to that one and its own page is free again.
 */
import type { CacheGroup } from "./kv_cache.js";
import { NONE } from "./page_pool.js";
import type { Rows } from "./rows.js";
import type { TokenLog } from "./token_log.js";
import { KEY_WORDS } from "./tier_driver.js";

/** Told of every page that gets a key: its group, and where its key lies. */
export type SealedListener = (group: number, keys: Uint32Array, at: number) => void;

/** Seals what can be sealed of a row. */
export function sealRow(groups: readonly CacheGroup[], rows: Rows, row: number, pageSize: number, told?: SealedListener): void {
  if (!rows.isCertain(row)) return;
  const log = rows.logs[row] as TokenLog;
  const full = Math.floor(Math.min(rows.lengths[row] as number, log.length) / pageSize);
  if (full <= (rows.sealed[row] as number)) return;
  const known = log.hash(full);
  for (let entry = rows.sealed[row] as number; entry < known; entry++) {
    for (const [index, group] of groups.entries()) {
      if (!sealEntry(group, row, entry, log, pageSize)) return;
      told?.(index, log.keys, entry * KEY_WORDS);
    }
    rows.sealed[row] = entry + 1;
  }
}

/** False where the page that has the key is on its way somewhere, or not on the device while others have ours: another time. */
function sealEntry({ pool, table }: CacheGroup, row: number, entry: number, log: TokenLog, pageSize: number): boolean {
  const page = table.page(row, entry);
  if (page === NONE || pool.isSealed(page)) return true;
  const { keys } = log;
  const tokens = log.tokens();
  const parent = entry === 0 ? NONE : table.page(row, entry - 1);
  // The page before left the window, or could not be sealed: this one cannot be found by its tokens then.
  if (entry > 0 && (parent === NONE || !pool.isSealed(parent))) return true;
  const holder = pool.find(keys, entry * KEY_WORDS, parent, log.root, tokens, entry * pageSize);
  if (holder === NONE) {
    pool.seal(page, keys, entry * KEY_WORDS, parent, log.root, tokens, entry * pageSize);
    return true;
  }
  if (pool.marks(holder) !== 0 || pool.marks(page) !== 0) return false;
  const isThere = pool.isValid(holder, 0);
  if (!isThere && (pool.refCount(page) > 1 || pool.useCount(holder) > 0)) return false;
  pool.retain(holder);
  if (!isThere) {
    pool.dropSlot(holder, 0); // what a failed copy left
    pool.moveSlot(page, holder, 0);
  }
  table.set(row, entry, holder, pool.slot(holder, 0));
  pool.release(page);
  return true;
}
