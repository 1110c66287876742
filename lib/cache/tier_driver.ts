/**
 * A keyed tier: whole pages under 128-bit keys, below the memory that kernels read. Disk and the shared store are drivers; they move
 * many pages a call between their store and slots of a host pool, never block the event loop, and never throw for a page that is
 * missing, damaged or late: that page's status says so, and the cache recomputes it.
 */

/** What became of each page of a `load`. */
export const LOADED = 0;
/** The tier does not hold the page. */
export const MISSING = 1;
/** Its bytes fail a check (header, checksum, key, parent or tokens); the tier forgets it. */
export const DAMAGED = 2;
/** The tier could not answer: an I/O error, a closed connection, a deadline, an abort. */
export const FAILED = 3;

/** What became of each page of a `store`. */
export const STORED = 0;
/** The tier held the page already; nothing was written. */
export const PRESENT = 1;
/** The tier has no room, or does not want the page now. */
export const REFUSED = 2;
// FAILED as above.

/** Words of a key: 128 bits, least significant word first. */
export const KEY_WORDS = 4;

/** Pages of one layer group on their way; the arrays run side by side, one entry or one run of entries for each page. */
export interface PageBatch {
  /** Layer group; it decides the page's bytes. */
  group: number;
  /** KEY_WORDS words a page. */
  keys: Uint32Array;
  /** KEY_WORDS words a page: the key of the page before it in its sequence, or of the root. */
  parents: Uint32Array;
  /** `pageSize` token ids a page, verified on load; -1 beyond a partly filled page's tokens. */
  tokens: Int32Array;
  /** The page's slot in the host pool of the group. */
  slots: Int32Array;
}

export interface TierStats {
  /** Pages and bytes held now; for a shared store, what this process wrote. */
  pages: number;
  bytes: number;
  capacityBytes: number;
  loads: number;
  loadedBytes: number;
  stores: number;
  storedBytes: number;
  misses: number;
  damaged: number;
  failures: number;
  refused: number;
}

export interface TierDriver {
  readonly name: "disk" | "remote";
  /** 1 for each key that the tier seems to hold now, else 0. A hint: `load` decides. Never rejects; an unreachable tier holds nothing. */
  lookup(group: number, keys: Uint32Array, signal?: AbortSignal): Promise<Uint8Array>;
  /** Brings pages into their slots; a status for each. A slot whose status is not LOADED holds garbage. */
  load(batch: PageBatch, signal?: AbortSignal): Promise<Uint8Array>;
  /** Writes pages from their slots, which must not change meanwhile; a status for each. */
  store(batch: PageBatch, signal?: AbortSignal): Promise<Uint8Array>;
  /** Forgets pages; unknown keys are no error. */
  remove(group: number, keys: Uint32Array): Promise<void>;
  stats(): TierStats;
  /** Ends after what is under way; the tier then holds nothing. A no-op the second time. */
  close(): Promise<void>;
}
