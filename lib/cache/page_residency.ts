/** The second part of a PagePool: where a page's bytes lie, which transfers run, and which page goes next when room is needed. */
import { KvasirError } from "../errors.js";
import { BLOCKED, DROPPABLE, type EvictionOrder, MOVABLE } from "./eviction.js";
import {
  ACTIVE,
  CACHED,
  classOf,
  FREE,
  MARK_IN,
  MARK_OUT,
  markMask,
  markShift,
  orderOf,
  stateMask,
  tierMask,
  tierShift,
  validBit,
  validMask,
} from "./page_flags.js";
import { NONE } from "./page_lists.js";
import { outOfPages, PageReferences, type PagePoolOptions } from "./page_references.js";

export class PageResidency extends PageReferences {
  readonly #flags: Uint16Array;
  /** Where the search for duplicates goes on. */
  #hand = 0;

  constructor(options: PagePoolOptions) {
    super(options);
    this.#flags = this.inside.flags;
  }

  /** The page's slot in an arena, or NONE. */
  slot(page: number, arena = 0): number {
    return this.inside.slots[arena]?.[page] ?? NONE;
  }

  /** A slot of the arena for the page, whose contents are not valid yet. @throws ERR_KVASIR_OUT_OF_PAGES where the arena is full. */
  takeSlot(page: number, arena: number): number {
    const map = this.map(arena);
    this.#alive(page);
    if (this.slot(page, arena) !== NONE) this.inside.fail(page, `has a slot in arena ${arena} already`);
    const slot = map.take();
    if (slot === NONE) throw outOfPages(map.size, arena === 0 ? "page" : "host page");
    (this.inside.slots[arena] as Int32Array)[page] = slot;
    this.inside.settle(page);
    return slot;
  }

  /**
   * Gives the page's slot in the arena up. A page without references that loses its last valid copy is dropped.
   * @throws ERR_KVASIR_INTERNAL while a transfer that touches the slot runs
   */
  dropSlot(page: number, arena: number): void {
    if (this.slot(page, arena) === NONE) return;
    const flags = this.#flags[page] as number;
    const touching = arena === this.numArenas - 1 ? markMask : (MARK_OUT | MARK_IN) << markShift;
    if ((flags & touching) !== 0) this.inside.fail(page, `is in a transfer; its slot in arena ${arena} cannot be given up`);
    this.inside.freeSlot(page, arena);
    this.#flags[page] = flags & ~validBit(arena);
    this.inside.settle(page);
    if (orderOf(flags) === arena && (flags & stateMask) !== ACTIVE) this.#order(arena).policy.evicted(page);
    this.#residencyChanged(page, flags);
  }

  /** Gives one page's valid slot in an arena to another page of the same contents that has none there; neither is in a transfer. */
  moveSlot(from: number, to: number, arena: number): void {
    this.#alive(to);
    const slot = this.slot(from, arena);
    if (slot === NONE || !this.isValid(from, arena)) this.inside.fail(from, `has nothing in arena ${arena} to give away`);
    if (this.slot(to, arena) !== NONE) this.inside.fail(to, `has a slot in arena ${arena} already`);
    if (((this.#flags[from] as number) | (this.#flags[to] as number)) & markMask)
      this.inside.fail(from, `or page ${to} is in a transfer; slots cannot change hands`);
    const [slots, given, taken] = [
      this.inside.slots[arena] as Int32Array,
      this.#flags[from] as number,
      this.#flags[to] as number,
    ];
    slots[from] = NONE;
    this.#flags[from] = given & ~validBit(arena);
    this.#residencyChanged(from, given);
    slots[to] = slot;
    this.#flags[to] = taken | validBit(arena);
    this.#residencyChanged(to, taken);
  }

  /** Whether the slot in the arena holds the page's contents. */
  isValid(page: number, arena: number): boolean {
    return ((this.#flags[page] as number) & validBit(arena)) !== 0;
  }

  /** Whether some arena holds the page's contents, or will once a copy under way has come. */
  isResident(page: number): boolean {
    return ((this.#flags[page] as number) & validMask) !== 0;
  }

  /** Says whether the slot in the arena holds the page's contents. Without effect on a page that was dropped while a transfer ran. */
  setValid(page: number, arena: number, valid: boolean): void {
    if (this.inside.isGone(page)) return;
    this.#alive(page);
    if (valid && this.slot(page, arena) === NONE) this.inside.fail(page, `has no slot in arena ${arena} that could be valid`);
    const flags = this.#flags[page] as number;
    this.#flags[page] = valid ? flags | validBit(arena) : flags & ~validBit(arena);
    this.#residencyChanged(page, flags);
  }

  /** The page's tokens in arena 0 have changed: the copy in arena 1 is stale, though it keeps its slot. Sealed pages never change. */
  dirty(page: number): void {
    const flags = this.#flags[page] as number;
    if ((flags & stateMask) !== ACTIVE) this.inside.fail(page, "is sealed and cannot change");
    if (this.numArenas === 1 || (flags & validBit(1)) === 0) return;
    this.#flags[page] = flags & ~validBit(1);
    this.inside.settle(page);
  }

  /** Begins a transfer: the page keeps its slots until `unmark`, which takes the epoch that this returns. One of a kind at a time. */
  mark(page: number, mark: number): number {
    this.#alive(page);
    const flags = this.#flags[page] as number;
    if ((flags & (mark << markShift)) !== 0) this.inside.fail(page, `has transfer mark ${mark} already`);
    this.#flags[page] = flags | (mark << markShift);
    this.inside.settle(page);
    return this.epoch(page);
  }

  /**
   * Ends a transfer. False for an orphan: a page that was dropped meanwhile, whose contents are nobody's; its slots are free after its last
   * mark. @throws ERR_KVASIR_INTERNAL for a transfer that did not begin
   */
  unmark(page: number, mark: number, epoch: number): boolean {
    const flags = this.#flags[page] as number;
    if (epoch !== this.epoch(page) || (flags & (mark << markShift)) === 0)
      this.inside.fail(page, `has no transfer mark ${mark} of epoch ${epoch}`);
    this.#flags[page] = flags & ~(mark << markShift);
    const isLast = this.marks(page) === 0;
    if (this.inside.isGone(page)) {
      if (isLast) this.inside.freeGone(page);
      return false;
    }
    if (isLast && this.inside.refs[page] === 0) this.inside.unreferenced(page);
    else if (isLast) this.inside.settle(page);
    return true;
  }

  /** Notes whether a keyed tier (TIER_DISK, TIER_REMOTE) seems to hold the page: a hint. Sealed pages only. */
  setTier(page: number, tier: number, on: boolean): void {
    const flags = this.#flags[page] as number;
    if ((flags & stateMask) === ACTIVE || (flags & stateMask) === FREE) {
      if (this.inside.isGone(page)) return;
      this.inside.fail(page, "has no key under which a tier could hold it");
    }
    const bit = tier << tierShift;
    this.#flags[page] = on ? flags | bit : flags & ~bit;
    this.inside.settle(page);
    if (((flags ^ (this.#flags[page] as number)) & tierMask) !== 0) this.inside.observer?.moved(page);
  }

  hasTier(page: number, tier: number): boolean {
    return ((this.#flags[page] as number) & (tier << tierShift)) !== 0;
  }

  /** The page was used just now: a hit, for the policies. */
  touch(page: number): void {
    const listed = orderOf(this.#flags[page] as number);
    for (let arena = 0; arena < this.numArenas; arena++) {
      if (arena === listed) this.#order(arena).touch(page);
      else this.#order(arena).policy.touch(page, false);
    }
  }

  /** `touch` for a chain of pages, its end first, so that the coldest page of a chain is one that none follows. */
  touchChain(pages: Int32Array): void {
    for (let i = pages.length - 1; i >= 0; i--) this.touch(pages[i] as number);
  }

  /**
   * The page to evict from an arena next, or NONE; it stays where it is until the caller drops its slot or marks it. It has no uses and no
   * marks. By default it may hold the only copy, to be copied elsewhere first: where `isMovable` is false it can be dropped at once, for
   * another arena or a keyed tier holds it, or nothing refers to it. In the lowest arena a page that others follow goes after them, unless
   * a tier holds it.
   */
  victim(arena: number, isMovable = true): number {
    return this.#order(arena).victim(!isMovable);
  }

  /**
   * A page of the arena that nothing refers to but that others follow which cannot go before it (they are in use, or in keyed tiers only), or
   * NONE. For when `victim` has nothing more: whoever drops it makes those others unfindable. Walks over the pages that are listed.
   */
  blockedVictim(arena: number): number {
    const order = this.#order(arena);
    if (order.count(BLOCKED) === 0) return NONE;
    for (const page of [...order.policy.pages(), ...order.heldPages()]) {
      if (classOf(this.#flags[page] as number) === BLOCKED) return page;
    }
    return NONE;
  }

  /**
   * Drops a page that nothing refers to and none follows, a cold one, for the sake of its id: the ids may run out before the slots do where
   * many pages are in keyed tiers only. Walks over the pages that are listed; false where there is none.
   */
  forgetCached(): boolean {
    for (let arena = this.numArenas - 1; arena >= 0; arena--) {
      for (const page of [...this.#order(arena).policy.pages(), ...this.#order(arena).heldPages()]) {
        if (this.state(page) !== CACHED || this.marks(page) !== 0 || this.inside.index.childrenOf(page) !== 0) continue;
        for (let other = 0; other < this.numArenas; other++) this.dropSlot(page, other);
        return true;
      }
    }
    return false;
  }

  /** Pages in the arena's order without transfer marks. */
  evictable(arena: number): number {
    return this.droppable(arena) + this.#order(arena).count(MOVABLE) + this.#order(arena).count(BLOCKED);
  }

  /** Those that can be dropped at once, without a copy: exact, now. Each drop may make the page before it droppable. */
  droppable(arena: number): number {
    return this.#order(arena).count(DROPPABLE);
  }

  /**
   * Slots that `victim(arena, false)` and `dropSlot` in turns would free without a copy. An upper bound: exact unless a page that is in use
   * or in a transfer follows an unreferenced one, as behind a window or a duplicate.
   */
  reclaimable(arena: number): number {
    return this.droppable(arena) + this.#order(arena).count(BLOCKED);
  }

  /** A page, in use or not, whose slot in arena 1 can be given up because arena 0 holds the page, or NONE. They are found in turns. */
  duplicate(): number {
    const { duplicates } = this.inside;
    if (duplicates === undefined) return NONE;
    let page = duplicates.nextFrom(this.#hand);
    if (page === NONE) page = duplicates.nextFrom(0);
    this.#hand = page === NONE ? 0 : page + 1;
    return page;
  }

  /**
   * Sets how much the page is worth keeping, 0 to 100, and optionally for how many milliseconds. It survives moves, not the page.
   * @throws ERR_KVASIR_INVALID_ARGUMENT, also where no policy of the pool knows priorities
   */
  setPriority(page: number, priority: number, ttlMs?: number): void {
    this.#alive(page);
    const policies = this.inside.orders.map(({ policy }) => policy).filter((policy) => policy.setPriority !== undefined);
    if (policies.length === 0)
      throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", "priority was set, but no arena's policy is the priority policy");
    for (const policy of policies) policy.setPriority?.(page, priority, ttlMs);
  }

  #order(arena: number): EvictionOrder {
    this.map(arena);
    return this.inside.orders[arena] as EvictionOrder;
  }

  #alive(page: number): void {
    this.refCount(page);
  }

  #residencyChanged(page: number, before: number): void {
    const flags = this.#flags[page] as number;
    const wasValid = (before & validMask) !== 0;
    if (this.inside.refs[page] === 0 && wasValid && (flags & validMask) === 0) this.inside.unreferenced(page);
    else this.inside.settle(page);
    const isSealed = ((this.#flags[page] as number) & stateMask) > ACTIVE;
    if (isSealed && ((before ^ flags) & validMask) !== 0) this.inside.observer?.moved(page);
  }
}
