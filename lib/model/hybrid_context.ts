/** Where the pages of a sequence lie that decodes in hybrid form. */
import type { KvCache } from "../cache/kv_cache.js";
import type { Sequence } from "../cache/sequence.js";
import { MARK_IN } from "../cache/page_pool.js";
import { KvasirError } from "../errors.js";

/** A sequence of which the caller says where it lies: its first tokens are in a host pool, its latest ones on the device. */
export interface HybridSequence {
  /** The part on the device. New tokens are added to it; its first token follows those in the host pool. */
  sequence: Sequence;
  /** Slots of the host pool: full pages, in any order where keys are stored after RoPE. */
  hostSlots: Int32Array;
}

/** What a hybrid decode asks of a sequence before each step. */
export interface HybridContext extends Disposable {
  /** Row of the cache that new tokens are reserved in. */
  readonly row: number;
  /** Tokens of all pages. */
  readonly length: number;
  /** @throws ERR_KVASIR_DISPOSED where the sequence is no longer what it was when the decode was made */
  check(): void;
  /** Slots of the device pool in the order of their tokens: full pages, but for the last. */
  deviceSlots(): Int32Array;
  /** Slots of the host pool: full pages. */
  hostSlots(): Int32Array;
}

/** @throws ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_PAGE_OUT_OF_RANGE, ERR_KVASIR_DISPOSED */
export function placedContext(cache: KvCache, { sequence, hostSlots }: HybridSequence, numHostSlots: number): HybridContext {
  const row = cache.rowOf(sequence);
  if (!(hostSlots instanceof Int32Array))
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", "hostSlots is no Int32Array; give the host pool's slots as one");
  const wrong = hostSlots.find((slot) => slot < 0 || slot >= numHostSlots);
  if (wrong !== undefined) {
    throw new KvasirError(
      "ERR_KVASIR_PAGE_OUT_OF_RANGE",
      `hostSlots has ${wrong}, expected 0 to ${numHostSlots - 1}: the host pool has ${numHostSlots} pages`,
    );
  }
  const { table } = cache.groups[0] as KvCache["groups"][number];
  const slots = hostSlots.slice();
  return {
    row,
    get length(): number {
      return slots.length * cache.pageSize + cache.length(row);
    },
    check: () => cache.rowOf(sequence),
    deviceSlots: () => Int32Array.from({ length: table.rowLength(row) }, (_, entry) => table.slot(row, entry)),
    hostSlots: () => slots,
    [Symbol.dispose]: () => undefined,
  };
}

/**
 * A sequence that `CacheTiers.spread` made ready. Where another sequence brings a page to the device that both share, it is read there from
 * then on. Disposed, it is suspended.
 */
export function spreadContext(cache: KvCache, sequence: Sequence): HybridContext {
  const row = cache.rowOf(sequence);
  const { pool } = cache.groups[0] as KvCache["groups"][number];
  const isOnHost = (page: number): boolean =>
    pool.numArenas > 1 && pool.isValid(page, 1) && (!pool.isValid(page, 0) || (pool.marks(page) & MARK_IN) !== 0);
  const slots = (arena: number): Int32Array =>
    cache
      .rowPages(0, row)
      .filter((page) => isOnHost(page) === (arena === 1))
      .map((page) => pool.slot(page, arena));
  return {
    row,
    get length(): number {
      return cache.length(row);
    },
    check: () => {
      if (cache.isSpread(cache.rowOf(sequence))) return;
      throw new KvasirError(
        "ERR_KVASIR_DISPOSED",
        "Sequence was suspended while it decodes in hybrid form; dispose the decode instead",
      );
    },
    deviceSlots: () => slots(0),
    hostSlots: () => slots(1),
    [Symbol.dispose]: () => {
      if (!sequence.disposed && cache.isSpread(row)) cache.suspend(row);
    },
  };
}

/** Whether pages lie where they did; slots by context. */
export function isSamePlaces(a: readonly Int32Array[], b: readonly Int32Array[]): boolean {
  return a.length === b.length && a.every((slots, i) => slots === b[i] || sameSlots(slots, b[i] as Int32Array));
}

function sameSlots(a: Int32Array, b: Int32Array): boolean {
  return a.length === b.length && a.every((slot, i) => slot === b[i]);
}
