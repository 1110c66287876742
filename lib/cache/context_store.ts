/**
 * Where the pages of sequences are while they do not run, seen from a scheduler: it says which sequences run, which rest and which come
 * next; a store moves their pages between the device and what lies below it. `DeviceOnlyStore` is the store of a cache with nothing below.
 */
import type { Stream } from "../stream.js";
import type { KvCache } from "./kv_cache.js";
import type { Sequence } from "./sequence.js";

/** A suspended sequence on its way back to the device. */
export interface Resumption {
  /**
   * Resolves when all pages are there, with the tokens that the sequence holds and the bytes that moved. Where a page was lost or damaged
   * the sequence was truncated before it, and is to be read again from there.
   * @throws ERR_KVASIR_OUT_OF_PAGES (rejection), or the signal's reason, and then it is suspended as before
   */
  ready: Promise<{ tokens: number; bytes: number }>;
  /**
   * Present where all pages were in memory: resolves when every page has its place on the device, so that a pass can be enqueued under the
   * copy, with `waitLayer` before each layer. Should room have been short before its turn came, the sequence may be shorter all the same.
   */
  placed?: Promise<void> | undefined;
  /** Makes `stream`, the cache's own where absent, wait for the pages of `layer` only, or where that is absent of all layers. */
  waitLayer(stream?: Stream, layer?: number): void;
}

/** Tokens that a sequence needed back, counted by the tier where they were found; "recompute" counts those found nowhere. */
export type HitTokens = Record<string, number>;

/** Sequences may be truncated, forked and disposed at any time, also while their pages move. */
export interface ContextStore {
  /** Whether pages can leave the device and come back; without tiers they can only be recomputed. */
  readonly hasTiers: boolean;
  /** Device pages in all: of the layer group that has fewest. */
  readonly devicePages: number;
  /** Device pages that can be reserved right now. */
  freePages(): number;
  /** Free device pages, and those that `makeRoom` can free at once without copying: of the layer group that has fewest. */
  availablePages(): number;
  /**
   * Evicts and demotes until `pages` device pages are free, copies under way that free pages included; resolves with how many are free then,
   * maybe fewer.
   */
  makeRoom(pages: number): Promise<number>;
  /**
   * Fills the empty sequence with the longest prefix of `tokens` that is found and worth loading; resolves with its length in tokens, all
   * of them on the device.
   */
  adopt(sequence: Sequence, tokens: Int32Array, options?: { signal?: AbortSignal | undefined }): Promise<number>;
  /**
   * Says which tokens the sequence holds from `from` on, once the host knows them: full pages can then be sealed and found again. What was
   * said of later positions is void; nothing before `from` is left out, save what `adopt` brought.
   */
  noteTokens(sequence: Sequence, from: number, tokens: ArrayLike<number>): void;
  /** The sequence does not run for now: its pages may leave the device when room is needed. */
  suspend(sequence: Sequence): void;
  /** Pages that `resume` would have to bring to the device, of the layer group that needs most. */
  missingPages(sequence: Sequence): number;
  /** Bytes of the sequence's pages that only the device holds: what `swapOut` would have to copy. */
  dirtyBytes(sequence: Sequence): number;
  /** Brings a suspended sequence back to the device. */
  resume(sequence: Sequence, options?: { signal?: AbortSignal | undefined }): Resumption;
  /** Moves a suspended sequence's pages off the device now; resolves when their device slots are free. */
  swapOut(sequence: Sequence): Promise<{ bytes: number }>;
  /** These suspended sequences are needed next, nearest first. */
  lookAhead(sequences: readonly Sequence[]): void;
  /** Where tokens that were needed back were found, so far. */
  hits(): HitTokens;
}

/** Keeps every page on the device: nothing is found, nothing moves, and whoever needs room truncates a sequence. */
export class DeviceOnlyStore implements ContextStore {
  readonly hasTiers = false;
  readonly #cache: KvCache;
  #resumedTokens = 0;

  constructor(cache: KvCache) {
    this.#cache = cache;
  }

  get devicePages(): number {
    return Math.min(...this.#cache.groups.map(({ pool }) => pool.numPages));
  }

  availablePages(): number {
    return this.freePages();
  }

  freePages(): number {
    return Math.min(...this.#cache.groups.map(({ pool }) => pool.numFree));
  }

  async makeRoom(): Promise<number> {
    return this.freePages();
  }

  async adopt(): Promise<number> {
    return 0;
  }

  noteTokens(): void {}

  suspend(): void {}

  missingPages(): number {
    return 0;
  }

  dirtyBytes(sequence: Sequence): number {
    return this.#cache.groups.reduce((sum, { table, format }) => sum + table.rowLength(sequence.row) * format.pageBytes, 0);
  }

  resume(sequence: Sequence): Resumption {
    this.#resumedTokens += sequence.length;
    return { ready: Promise.resolve({ tokens: sequence.length, bytes: 0 }), waitLayer: () => undefined };
  }

  async swapOut(): Promise<{ bytes: number }> {
    return { bytes: 0 };
  }

  lookAhead(): void {}

  hits(): HitTokens {
    return { device: this.#resumedTokens };
  }
}
