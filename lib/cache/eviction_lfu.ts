/**
 * Least frequently used goes first, with ageing: a page's rank is `age + 1 + hits`, where `age` is the rank of the coldest page at the time
 * when the page was ranked, so that old hits lose their weight as pages are evicted (LFU with dynamic ageing, Arlitt et al. 1999). Hits
 * saturate, so all ranks lie within one window and a ring of lists, one for each rank, makes every operation O(1). Of equal ranks, the page
 * that was ranked first goes first.
 */
import type { EvictionPolicy, PolicyContext, PolicyFactory } from "./eviction.js";
import { NONE, type PageLists } from "./page_lists.js";

/** Hits that count; one list for each rank from `age` to `age + 1 + maxHits`. */
const maxHits = 15;
const numRanks: number = maxHits + 2;

class Lfu implements EvictionPolicy {
  readonly name = "lfu";
  readonly #lists: PageLists;
  readonly #firstList: number;
  readonly #hits: Uint8Array;
  /** No listed page ranks below. */
  #age = 0;

  constructor({ lists, firstList }: PolicyContext) {
    this.#lists = lists;
    this.#firstList = firstList;
    this.#hits = new Uint8Array(lists.numPages);
  }

  get metadataBytes(): number {
    return this.#hits.byteLength;
  }

  insert(page: number): void {
    this.#lists.pushHot(this.#listOf(this.#age + 1 + (this.#hits[page] as number)), page);
  }

  insertCold(page: number): void {
    this.coldest(); // moves the age up to the lowest rank in use
    this.#lists.pushCold(this.#listOf(this.#age), page);
  }

  remove(page: number): void {
    this.#lists.remove(page);
  }

  touch(page: number, isListed: boolean): void {
    const hits = this.#hits[page] as number;
    if (hits < maxHits) this.#hits[page] = hits + 1;
    if (!isListed) return;
    this.#lists.remove(page);
    this.insert(page);
  }

  coldest(): number {
    for (let rank = this.#age; rank < this.#age + numRanks; rank++) {
      const page = this.#lists.coldest(this.#listOf(rank));
      if (page === NONE) continue;
      this.#age = rank;
      return page;
    }
    return NONE;
  }

  evicted(): void {}

  forget(page: number): void {
    this.#hits[page] = 0;
  }

  *pages(): Generator<number> {
    for (let rank = this.#age; rank < this.#age + numRanks; rank++) yield* this.#lists.pages(this.#listOf(rank));
  }

  #listOf(rank: number): number {
    return this.#firstList + (rank % numRanks);
  }
}

export const lfu: PolicyFactory = { name: "lfu", numLists: numRanks, create: (context) => new Lfu(context) };
