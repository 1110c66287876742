/**
 * Eviction orders. A policy keeps the pages of one arena that are in no running sequence and says which of them is coldest; it does not know
 * why a page may or may not go. `EvictionOrder` puts that knowledge over a policy: each listed page has a class, and pages of a wrong class
 * that turn up at the cold end are set aside, so that nobody passes over them again, and come back to the cold end once their class changes.
 */
import { NONE, type PageLists } from "./page_lists.js";
import { classOf, heldBit } from "./page_flags.js";
import type { PrefixIndex } from "./prefix_index.js";

export interface EvictionPolicy {
  readonly name: string;
  /** The page may be evicted from now on; it was used last just now. */
  insert(page: number): void;
  /** The same, for a page that was coldest before: it belongs at the cold end again. */
  insertCold(page: number): void;
  /** The page may not be evicted any more. What is known of it stays. */
  remove(page: number): void;
  /** A hit; `isListed` says whether the page is in the order. */
  touch(page: number, isListed: boolean): void;
  /** The page to evict next, or NONE; it stays in the order. */
  coldest(): number;
  /** A sealed page has left the arena. */
  evicted(page: number): void;
  /** The page's id is free: whatever comes next under it is another page. Absent where nothing is kept of a page. */
  forget?(page: number): void;
  /** Pages in the order, coldest first as far as the policy knows without rearranging. */
  pages(): Iterable<number>;
  readonly metadataBytes: number;
  /** Importance from 0 to 100 and, optionally, how long it lasts in ms. Absent where the policy has no use for it. */
  setPriority?(page: number, priority: number, ttlMs?: number): void;
}

export interface PolicyContext {
  /** Lists `firstList` to `firstList + numLists - 1` are the policy's. */
  lists: PageLists;
  firstList: number;
  /** Slots of the arena. */
  slots: number;
  /** The keys of sealed pages. */
  index: PrefixIndex;
}

export interface PolicyFactory {
  readonly name: string;
  /** Lists that the policy needs. */
  readonly numLists: number;
  create(context: PolicyContext): EvictionPolicy;
}

/** Classes of listed pages. A transfer runs: not evictable. */
export const IN_TRANSFER = 0;
/** The only copy of a page that something refers to: it may leave once it was copied elsewhere. */
export const MOVABLE = 1;
/** May go at once: there is another copy, or nothing refers to the page and no page in memory follows it. */
export const DROPPABLE = 2;
/** The only copy of a page that nothing refers to but that others follow: it may go after them. */
export const BLOCKED = 3;

/** Lists that an order needs beside its policy's. */
export const heldLists = 2;

export class EvictionOrder {
  readonly policy: EvictionPolicy;
  readonly #lists: PageLists;
  readonly #flags: Uint16Array;
  /** Pages set aside: those that nobody may evict now, and movable ones that a search for droppable pages met. */
  readonly #barred: number;
  readonly #movable: number;
  readonly #counts: Int32Array = new Int32Array(4);

  constructor(policy: EvictionPolicy, lists: PageLists, firstHeld: number, flags: Uint16Array) {
    this.policy = policy;
    this.#lists = lists;
    this.#flags = flags;
    this.#barred = firstHeld;
    this.#movable = firstHeld + 1;
  }

  /** Listed pages of a class. */
  count(pageClass: number): number {
    return this.#counts[pageClass] as number;
  }

  insert(page: number, pageClass: number): void {
    this.#add(pageClass, 1);
    this.policy.insert(page);
  }

  remove(page: number, pageClass: number): void {
    this.#add(pageClass, -1);
    if (!this.#unhold(page)) this.policy.remove(page);
  }

  /** The page's class has changed; `flags` holds the new one. */
  reclassify(page: number, from: number, to: number): void {
    this.#add(from, -1);
    this.#add(to, 1);
    if (this.#unhold(page)) this.policy.insertCold(page);
  }

  touch(page: number): void {
    if (this.#unhold(page)) this.policy.insert(page);
    this.policy.touch(page, true);
  }

  /** The coldest page that is droppable, or with `dropOnly` false also movable; NONE where there is none. Amortised O(1). */
  victim(dropOnly: boolean): number {
    if (!dropOnly) {
      const held = this.#lists.coldest(this.#movable);
      if (held !== NONE) return held;
    }
    if (this.count(DROPPABLE) + (dropOnly ? 0 : this.count(MOVABLE)) === 0) return NONE;
    for (;;) {
      const page = this.policy.coldest();
      if (page === NONE) return NONE;
      const pageClass = classOf(this.#flags[page] as number);
      if (pageClass === DROPPABLE || (pageClass === MOVABLE && !dropOnly)) return page;
      this.policy.remove(page);
      this.#flags[page] = (this.#flags[page] as number) | heldBit;
      this.#lists.pushHot(pageClass === MOVABLE ? this.#movable : this.#barred, page);
    }
  }

  /** Pages set aside. */
  *heldPages(): Generator<number> {
    yield* this.#lists.pages(this.#barred);
    yield* this.#lists.pages(this.#movable);
  }

  #add(pageClass: number, difference: number): void {
    this.#counts[pageClass] = (this.#counts[pageClass] as number) + difference;
  }

  /** Takes the page back from where it was set aside; false if it was not. */
  #unhold(page: number): boolean {
    const flags = this.#flags[page] as number;
    if ((flags & heldBit) === 0) return false;
    this.#flags[page] = flags & ~heldBit;
    this.#lists.remove(page);
    return true;
  }
}
