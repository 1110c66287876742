/** Least recently used goes first. */
import type { EvictionPolicy, PolicyContext, PolicyFactory } from "./eviction.js";
import type { PageLists } from "./page_lists.js";

class Lru implements EvictionPolicy {
  readonly name = "lru";
  readonly metadataBytes = 0;
  readonly #lists: PageLists;
  readonly #list: number;

  constructor({ lists, firstList }: PolicyContext) {
    this.#lists = lists;
    this.#list = firstList;
  }

  insert(page: number): void {
    this.#lists.pushHot(this.#list, page);
  }

  insertCold(page: number): void {
    this.#lists.pushCold(this.#list, page);
  }

  remove(page: number): void {
    this.#lists.remove(page);
  }

  touch(page: number, isListed: boolean): void {
    if (!isListed) return;
    this.#lists.remove(page);
    this.#lists.pushHot(this.#list, page);
  }

  coldest(): number {
    return this.#lists.coldest(this.#list);
  }

  evicted(): void {}

  pages(): Iterable<number> {
    return this.#lists.pages(this.#list);
  }
}

/** The default policy: no state beside the links. */
export const lru: PolicyFactory = { name: "lru", numLists: 1, create: (context) => new Lru(context) };
