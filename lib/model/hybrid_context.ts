/** Where the pages of a sequence lie that decodes in hybrid form. */
import type { KvCache } from "../cache/kv_cache.js";
import type { Sequence } from "../cache/sequence.js";
import { KvasirError } from "../errors.js";

/** A sequence whose first tokens lie in a host pool and whose latest ones are on the device. */
export interface HybridSequence {
  /** The part on the device. New tokens are added to it; its first token follows those in the host pool. */
  sequence: Sequence;
  /** Slots of the host pool: full pages, in any order where keys are stored after RoPE. */
  hostSlots: Int32Array;
}

/** What a hybrid decode asks of a sequence before each step. */
export interface HybridContext {
  /** Row of the cache that new tokens are reserved in. */
  readonly row: number;
  /** Tokens of all pages. */
  readonly length: number;
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
    deviceSlots: () => Int32Array.from({ length: table.rowLength(row) }, (_, entry) => table.slot(row, entry)),
    hostSlots: () => slots,
  };
}
