/**
 * S3-FIFO (Yang et al., SOSP 2023): new pages queue in a small list, a tenth of the arena; those hit more than once on the way move to the
 * main list, the others leave, and their keys stay behind in a ghost list. A page whose key is found there goes to the main list at once. The
 * main list is a queue too, whose pages get another round for each hit, three at most. One scan over many pages thus never flushes the rest.
 *
 * Changed here: a page that is in use leaves its queue and comes back to the same one, for it was not evicted; the ghost list is a table of
 * 32-bit fingerprints in sets of four, in which the oldest entry of a full set gives way.
 */
import type { EvictionPolicy, PolicyContext, PolicyFactory } from "./eviction.js";
import { NONE, type PageLists } from "./page_lists.js";

const smallShare = 0.1;
const maxHits = 3;
/** A page of the small list with more hits than this moves on. */
const hitsToStay = 1;
const hitsMask = 3;
const mainBit = 4;
/** In one of the two queues, now or before it was in use; a page without it has just come to the arena. */
const knownBit = 8;

/** Keys of pages that left not long ago. */
class GhostList {
  static readonly ways = 4;
  readonly #prints: Uint32Array;
  /** When each entry was made, counted in entries modulo 2^32; 0 for none. */
  readonly #times: Uint32Array;
  readonly #capacity: number;
  #now = 0;

  constructor(capacity: number) {
    this.#capacity = capacity;
    const entries = 2 ** Math.ceil(Math.log2(Math.max(GhostList.ways, capacity)));
    this.#prints = new Uint32Array(entries);
    this.#times = new Uint32Array(entries);
  }

  get bytes(): number {
    return this.#prints.byteLength + this.#times.byteLength;
  }

  add(bucket: number, print: number): void {
    const first = this.#setOf(bucket);
    let oldest = first;
    for (let i = first; i < first + GhostList.ways; i++) if (this.#age(i) > this.#age(oldest)) oldest = i;
    this.#now = (this.#now + 1) >>> 0 || 1;
    this.#prints[oldest] = print;
    this.#times[oldest] = this.#now;
  }

  /** Whether the key is among the last `capacity`; it is taken out. */
  take(bucket: number, print: number): boolean {
    const first = this.#setOf(bucket);
    for (let i = first; i < first + GhostList.ways; i++) {
      if (this.#prints[i] !== print || this.#age(i) >= this.#capacity) continue;
      this.#times[i] = 0;
      return true;
    }
    return false;
  }

  #age(entry: number): number {
    const time = this.#times[entry] as number;
    return time === 0 ? Number.POSITIVE_INFINITY : (this.#now - time) >>> 0;
  }

  #setOf(bucket: number): number {
    return (bucket * GhostList.ways) & (this.#prints.length - 1);
  }
}

class S3Fifo implements EvictionPolicy {
  readonly name = "s3-fifo";
  readonly #lists: PageLists;
  readonly #small: number;
  readonly #main: number;
  readonly #index: PolicyContext["index"];
  readonly #bits: Uint8Array;
  readonly #ghost: GhostList;
  readonly #smallTarget: number;
  #numSmall = 0;

  constructor({ lists, firstList, slots, index }: PolicyContext) {
    this.#lists = lists;
    this.#small = firstList;
    this.#main = firstList + 1;
    this.#index = index;
    this.#bits = new Uint8Array(lists.numPages);
    this.#ghost = new GhostList(slots);
    this.#smallTarget = Math.max(1, Math.floor(smallShare * slots));
  }

  get metadataBytes(): number {
    return this.#bits.byteLength + this.#ghost.bytes;
  }

  insert(page: number): void {
    this.#enter(page);
    this.#lists.pushHot(this.#listOf(page), page);
  }

  insertCold(page: number): void {
    this.#enter(page);
    this.#lists.pushCold(this.#listOf(page), page);
  }

  remove(page: number): void {
    this.#lists.remove(page);
    if (((this.#bits[page] as number) & mainBit) === 0) this.#numSmall--;
  }

  touch(page: number): void {
    const bits = this.#bits[page] as number;
    if ((bits & hitsMask) < maxHits) this.#bits[page] = bits + 1;
  }

  coldest(): number {
    for (;;) {
      const small = this.#lists.coldest(this.#small);
      const main = this.#lists.coldest(this.#main);
      const page = small !== NONE && (main === NONE || this.#numSmall >= this.#smallTarget) ? small : main;
      if (page === NONE) return NONE;
      const bits = this.#bits[page] as number;
      const hits = bits & hitsMask;
      if (page === small && hits > hitsToStay) {
        this.#numSmall--;
        this.#bits[page] = (bits & ~hitsMask) | mainBit;
      } else if (page === main && hits > 0) this.#bits[page] = bits - 1;
      else return page;
      this.#lists.remove(page);
      this.#lists.pushHot(this.#main, page);
    }
  }

  evicted(page: number): void {
    if (((this.#bits[page] as number) & mainBit) === 0)
      this.#ghost.add(this.#index.keyWord(page, 0), this.#index.keyWord(page, 1));
    this.#bits[page] = 0;
  }

  forget(page: number): void {
    this.#bits[page] = 0;
  }

  *pages(): Generator<number> {
    yield* this.#lists.pages(this.#small);
    yield* this.#lists.pages(this.#main);
  }

  /** Chooses the queue of a page that is new to the arena, and counts it. */
  #enter(page: number): void {
    let bits = this.#bits[page] as number;
    if ((bits & knownBit) === 0) {
      const isGhost = this.#index.has(page) && this.#ghost.take(this.#index.keyWord(page, 0), this.#index.keyWord(page, 1));
      bits |= isGhost ? knownBit | mainBit : knownBit;
      this.#bits[page] = bits;
    }
    if ((bits & mainBit) === 0) this.#numSmall++;
  }

  #listOf(page: number): number {
    return ((this.#bits[page] as number) & mainBit) !== 0 ? this.#main : this.#small;
  }
}

export const s3Fifo: PolicyFactory = { name: "s3-fifo", numLists: 2, create: (context) => new S3Fifo(context) };
