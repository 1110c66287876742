/**
 * Pages of lower priority go first, of one priority the least recently used; a page may have its priority for a time only, and whoever
 * outlived its time goes before all others. Priorities run from 0 to 100, 35 where none was set, and stay with the page until its id is free.
 */
import { checkInteger } from "../options.js";
import { KvasirError } from "../errors.js";
import type { EvictionPolicy, PolicyContext, PolicyFactory } from "./eviction.js";
import { ExpiryHeap } from "./expiry_heap.js";
import { NONE, type PageLists } from "./page_lists.js";
import { BitTree } from "./slot_map.js";

export const defaultPriority = 35;
export const maxPriority = 100;
/** The list of expired pages comes before that of priority 0. */
const expired = 0;
const listOfPriority = 1;
const numLists: number = listOfPriority + maxPriority + 1;

class Priority implements EvictionPolicy {
  readonly name = "priority";
  readonly #lists: PageLists;
  readonly #firstList: number;
  readonly #now: () => number;
  /** The page's list, from `expired` up, whether it is in it or not. */
  readonly #list: Uint8Array;
  readonly #isListed: Uint8Array;
  readonly #expiry: ExpiryHeap;
  /** Lists that may hold pages; those that turn out to be empty leave it when they are looked at. */
  readonly #filled: BitTree = new BitTree(numLists);

  constructor({ lists, firstList }: PolicyContext, now: () => number) {
    this.#lists = lists;
    this.#firstList = firstList;
    this.#now = now;
    this.#list = new Uint8Array(lists.numPages).fill(listOfPriority + defaultPriority);
    this.#isListed = new Uint8Array(lists.numPages);
    this.#expiry = new ExpiryHeap(lists.numPages);
  }

  get metadataBytes(): number {
    return this.#list.byteLength + this.#isListed.byteLength + this.#expiry.metadataBytes + this.#filled.metadataBytes;
  }

  insert(page: number): void {
    this.#isListed[page] = 1;
    this.#lists.pushHot(this.#fill(page), page);
  }

  insertCold(page: number): void {
    this.#isListed[page] = 1;
    this.#lists.pushCold(this.#fill(page), page);
  }

  remove(page: number): void {
    this.#isListed[page] = 0;
    this.#lists.remove(page);
  }

  touch(page: number, isListed: boolean): void {
    if (!isListed) return;
    this.#lists.remove(page);
    this.insert(page);
  }

  coldest(): number {
    if (this.#expiry.size > 0) this.#expire(this.#now());
    for (;;) {
      const list = this.#filled.nextFrom(0);
      if (list === NONE) return NONE;
      const page = this.#lists.coldest(this.#firstList + list);
      if (page !== NONE) return page;
      this.#filled.delete(list);
    }
  }

  evicted(): void {}

  forget(page: number): void {
    this.#list[page] = listOfPriority + defaultPriority;
    if (this.#expiry.size > 0) this.#expiry.delete(page);
  }

  setPriority(page: number, priority: number, ttlMs?: number): void {
    checkInteger("priority", priority, 0, maxPriority);
    if (ttlMs !== undefined && !(ttlMs >= 0))
      throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `ttlMs is ${ttlMs}, expected milliseconds of at least 0`);
    if (ttlMs === undefined) this.#expiry.delete(page);
    else this.#expiry.set(page, this.#now() + ttlMs);
    this.#move(page, listOfPriority + priority);
  }

  *pages(): Generator<number> {
    for (let list = 0; list < numLists; list++) yield* this.#lists.pages(this.#firstList + list);
  }

  #expire(now: number): void {
    for (let page = this.#expiry.popDue(now); page !== NONE; page = this.#expiry.popDue(now)) this.#move(page, expired);
  }

  #move(page: number, list: number): void {
    this.#list[page] = list;
    if (this.#isListed[page] === 0) return;
    this.#lists.remove(page);
    this.insert(page);
  }

  /** The page's list, noted as filled. */
  #fill(page: number): number {
    const list = this.#list[page] as number;
    this.#filled.add(list);
    return this.#firstList + list;
  }
}

export interface PriorityOptions {
  /** The clock, in milliseconds; default: the time since the process began. */
  now?: () => number;
}

export const priority = ({ now = () => performance.now() }: PriorityOptions = {}): PolicyFactory => ({
  name: "priority",
  numLists,
  create: (context) => new Priority(context, now),
});
