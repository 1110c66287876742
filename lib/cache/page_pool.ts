/**
 * The pages of one layer group: logical pages (id, state, reference count, epoch) and their residencies {tier, format, slot}. Everything
 * lives in typed arrays; a page is an index. Encoding or moving a page changes its residencies, never its identity.
 *
 * Invariants: every page is in exactly one state and the counters equal a recount (I1); a page is FREE exactly when nothing refers to it
 * and it holds no slot; free pages and free slots are each listed once (I4).
 */
import { KvasirError } from "../errors.js";

/** FREE -> ACTIVE (referenced) -> SEALED (full and hashed) -> CACHED (unreferenced, evictable). */
export const pageStates = ["free", "active", "sealed", "cached"] as const;
export type PageState = (typeof pageStates)[number];
export const FREE = 0;
export const ACTIVE = 1;

/** A page can be in this many places or formats at once: one per tier. */
const residenciesPerPage = 4;
const absent = 255;

export class PagePool {
  /** Pages, and slots of the first tier. */
  readonly numPages: number;
  readonly #refs: Int32Array;
  readonly #epochs: Uint32Array;
  readonly #states: Uint8Array;
  readonly #tiers: Uint8Array;
  readonly #formats: Uint8Array;
  readonly #slots: Int32Array;
  readonly #freePages: Int32Array;
  readonly #freeSlots: Int32Array;
  readonly #counts: Int32Array = new Int32Array(pageStates.length);
  #numFreePages: number;
  #numFreeSlots: number;
  #peakUsed = 0;

  constructor(numPages: number) {
    this.numPages = numPages;
    this.#refs = new Int32Array(numPages);
    this.#epochs = new Uint32Array(numPages);
    this.#states = new Uint8Array(numPages);
    this.#tiers = new Uint8Array(numPages * residenciesPerPage).fill(absent);
    this.#formats = new Uint8Array(numPages * residenciesPerPage);
    this.#slots = new Int32Array(numPages * residenciesPerPage);
    // Stacks whose top is the lowest index, so that a fresh pool fills from the start of its memory.
    this.#freePages = Int32Array.from({ length: numPages }, (_, i) => numPages - 1 - i);
    this.#freeSlots = this.#freePages.slice();
    this.#numFreePages = numPages;
    this.#numFreeSlots = numPages;
    this.#counts[FREE] = numPages;
  }

  /** Pages that `take` can still give. */
  get numFree(): number {
    return Math.min(this.#numFreePages, this.#numFreeSlots);
  }

  /** Most slots that were in use at once. */
  get peakUsed(): number {
    return this.#peakUsed;
  }

  /** Bytes of this bookkeeping. */
  get metadataBytes(): number {
    const arrays = [
      this.#refs,
      this.#epochs,
      this.#states,
      this.#tiers,
      this.#formats,
      this.#slots,
      this.#freePages,
      this.#freeSlots,
    ];
    return arrays.reduce((sum, array) => sum + array.byteLength, this.#counts.byteLength);
  }

  /** Pages per state. */
  counts(): Record<PageState, number> {
    return Object.fromEntries(pageStates.map((state, i) => [state, this.#counts[i] ?? 0])) as Record<PageState, number>;
  }

  /** A page with one reference and a slot of the first tier. The caller has checked `numFree`. */
  take(format = 0): number {
    const page = this.#freePages[this.#numFreePages - 1];
    const slot = this.#freeSlots[this.#numFreeSlots - 1];
    if (page === undefined || slot === undefined) {
      throw new KvasirError(
        "ERR_KVASIR_OUT_OF_PAGES",
        `Need 1 page but 0 of ${this.numPages} are free; free a sequence, or raise maxPages`,
      );
    }
    this.#numFreePages--;
    this.#numFreeSlots--;
    this.#peakUsed = Math.max(this.#peakUsed, this.numPages - this.#numFreeSlots);
    this.#refs[page] = 1;
    this.#epochs[page] = (this.#epochs[page] as number) + 1;
    this.#setState(page, ACTIVE);
    const residency = page * residenciesPerPage;
    this.#tiers[residency] = 0;
    this.#formats[residency] = format;
    this.#slots[residency] = slot;
    return page;
  }

  /** One more table entry (or pin) refers to the page. */
  retain(page: number): void {
    this.#refs[page] = this.refCount(page) + 1;
  }

  /** One fewer does; with the last one the page and its slots are free again. */
  release(page: number): void {
    const refs = this.refCount(page) - 1;
    this.#refs[page] = refs;
    if (refs > 0) return;
    const end = (page + 1) * residenciesPerPage;
    for (let residency = page * residenciesPerPage; residency < end; residency++) {
      if (this.#tiers[residency] === 0) this.#freeSlots[this.#numFreeSlots++] = this.#slots[residency] as number;
      this.#tiers[residency] = absent;
    }
    this.#setState(page, FREE);
    this.#freePages[this.#numFreePages++] = page;
  }

  /** References to a page in use. @throws ERR_KVASIR_INTERNAL for a free page: a caller kept an id too long. */
  refCount(page: number): number {
    const refs = this.#refs[page];
    if (refs === undefined || refs <= 0) throw new KvasirError("ERR_KVASIR_INTERNAL", `Page ${page} is not in use`);
    return refs;
  }

  /** Rises each time the page is reused: a completion that carries an older epoch speaks of another page. */
  epoch(page: number): number {
    return this.#epochs[page] ?? 0;
  }

  /** The slot that holds the page in a tier, or undefined. */
  slot(page: number, tier = 0): number | undefined {
    const end = (page + 1) * residenciesPerPage;
    for (let residency = page * residenciesPerPage; residency < end; residency++) {
      if (this.#tiers[residency] === tier) return this.#slots[residency];
    }
    return undefined;
  }

  /** Recounts everything; `references[page]` is what the tables hold. Returns what is wrong, one sentence each. */
  problems(references: Int32Array): string[] {
    const found: string[] = [];
    const counts = new Int32Array(pageStates.length);
    const listed = new Uint8Array(this.numPages);
    for (const page of this.#freePages.subarray(0, this.#numFreePages)) {
      if (listed[page]) found.push(`I4: page ${page} is listed as free twice`);
      listed[page] = 1;
    }
    const slotUsers = new Int32Array(this.numPages);
    for (const slot of this.#freeSlots.subarray(0, this.#numFreeSlots)) slotUsers[slot] = (slotUsers[slot] as number) + 1;
    for (let page = 0; page < this.numPages; page++) {
      const state = this.#states[page] as number;
      counts[state] = (counts[state] as number) + 1;
      const refs = this.#refs[page] as number;
      if (refs !== references[page]) found.push(`I2: page ${page} counts ${refs} references, tables hold ${references[page]}`);
      if ((state === FREE) !== (listed[page] === 1))
        found.push(`I1: page ${page} is ${pageStates[state]} but its place in the free list says otherwise`);
      if (state === FREE && refs !== 0) found.push(`I1: page ${page} is free with ${refs} references`);
      const slot = this.slot(page);
      if ((state === ACTIVE) !== (slot !== undefined)) found.push(`I1: page ${page} is ${pageStates[state]} with slot ${slot}`);
      if (slot !== undefined) slotUsers[slot] = (slotUsers[slot] as number) + 1;
    }
    slotUsers.forEach((users, slot) => {
      if (users !== 1) found.push(`I4: slot ${slot} has ${users} owners, expected 1`);
    });
    counts.forEach((count, state) => {
      if (count !== this.#counts[state])
        found.push(`I1: ${this.#counts[state]} pages counted as ${pageStates[state]}, a recount gives ${count}`);
    });
    return found;
  }

  #setState(page: number, state: number): void {
    const old = this.#states[page] as number;
    this.#counts[old] = (this.#counts[old] as number) - 1;
    this.#counts[state] = (this.#counts[state] as number) + 1;
    this.#states[page] = state;
  }
}
