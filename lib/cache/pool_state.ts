/**
 * The arrays behind a PagePool and the rules that keep them consistent: which eviction order a page belongs to, and what happens when
 * nothing refers to it any more. `PagePool` is the interface; this is its inside.
 */
import { KvasirError } from "../errors.js";
import {
  BLOCKED,
  DROPPABLE,
  EvictionOrder,
  type EvictionPolicy,
  heldLists,
  IN_TRANSFER,
  MOVABLE,
  type PolicyFactory,
} from "./eviction.js";
import {
  ACTIVE,
  CACHED,
  classMask,
  classOf,
  classShift,
  FREE,
  markMask,
  orderMask,
  orderOf,
  orderShift,
  pageStates,
  stateMask,
  tierMask,
  validBit,
  validMask,
} from "./page_flags.js";
import { NONE, PageLists } from "./page_lists.js";
import { PrefixIndex } from "./prefix_index.js";
import { BitTree, SlotMap } from "./slot_map.js";

export class PoolState {
  readonly numPages: number;
  readonly numArenas: number;
  readonly refs: Int32Array;
  readonly uses: Int32Array;
  readonly epochs: Uint32Array;
  readonly flags: Uint16Array;
  /** The page's slot in each arena, or NONE. */
  readonly slots: readonly Int32Array[];
  readonly maps: readonly SlotMap[];
  readonly lists: PageLists;
  readonly orders: readonly EvictionOrder[];
  readonly index: PrefixIndex;
  /** Pages per state. */
  readonly counts: Int32Array = new Int32Array(pageStates.length);
  /** Unmarked pages that are valid in arena 0 and have a slot in arena 1 too: that slot can be given up. Absent with one arena. */
  readonly duplicates: BitTree | undefined;
  /** Policies that keep something of each page. */
  readonly #forgetful: readonly EvictionPolicy[];
  /** Called when a page enters or leaves the index, and when the arenas that hold a page in the index change. */
  observer: PoolObserver | undefined;

  constructor(numPages: number, slots: readonly number[], pageSize: number, policies: readonly PolicyFactory[]) {
    this.numPages = numPages;
    this.numArenas = slots.length;
    this.refs = new Int32Array(numPages);
    this.uses = new Int32Array(numPages);
    this.epochs = new Uint32Array(numPages);
    this.flags = new Uint16Array(numPages);
    this.slots = slots.map(() => new Int32Array(numPages).fill(NONE));
    this.maps = slots.map((size) => new SlotMap(size));
    this.index = new PrefixIndex(numPages, pageSize);
    this.duplicates = slots.length > 1 ? new BitTree(numPages) : undefined;
    const numLists = policies.reduce((sum, policy) => sum + policy.numLists + heldLists, 0);
    this.lists = new PageLists(numPages, numLists);
    this.lists.stackAll();
    this.counts[FREE] = numPages;
    let firstList = 0;
    this.orders = policies.map((factory, arena) => {
      const policy = factory.create({ lists: this.lists, firstList, slots: slots[arena] as number, index: this.index });
      const order = new EvictionOrder(policy, this.lists, firstList + factory.numLists, this.flags);
      firstList += factory.numLists + heldLists;
      return order;
    });
    this.#forgetful = this.orders.map(({ policy }) => policy).filter((policy) => policy.forget !== undefined);
  }

  get metadataBytes(): number {
    const { refs, uses, epochs, flags, slots, counts } = this;
    const arrays = [refs, uses, epochs, flags, counts, ...slots];
    const parts = [...this.maps, ...this.orders.map(({ policy }) => policy), this.lists, this.index];
    return (
      arrays.reduce((sum, array) => sum + array.byteLength, this.duplicates?.metadataBytes ?? 0) +
      parts.reduce((sum, part) => sum + part.metadataBytes, 0)
    );
  }

  /** A free page, now ACTIVE with one reference and one use, or NONE. */
  takePage(): number {
    const page = this.lists.pop();
    if (page === NONE) return NONE;
    this.refs[page] = 1;
    this.uses[page] = 1;
    this.epochs[page] = (this.epochs[page] as number) + 1;
    this.setState(page, ACTIVE);
    return page;
  }

  setState(page: number, state: number): void {
    const flags = this.flags[page] as number;
    const old = flags & stateMask;
    this.counts[old] = (this.counts[old] as number) - 1;
    this.counts[state] = (this.counts[state] as number) + 1;
    this.flags[page] = (flags & ~stateMask) | state;
  }

  /** Dropped, but its id is held by a transfer or by pages that name it as their parent. */
  isGone(page: number): boolean {
    return this.refs[page] === 0 && ((this.flags[page] as number) & stateMask) === ACTIVE;
  }

  /** The order that the page belongs to, as an arena, or -1. Marks do not move a page: they change its class. */
  orderFor(page: number): number {
    const flags = this.flags[page] as number;
    if ((flags & validMask) === 0 || this.uses[page] !== 0) return -1;
    if ((flags & validBit(0)) !== 0) return 0;
    return this.numArenas > 1 && (this.slots[0] as Int32Array)[page] === NONE ? 1 : -1;
  }

  /** The class of a page in an arena's order. */
  classFor(page: number, arena: number): number {
    const flags = this.flags[page] as number;
    if ((flags & markMask) !== 0) return IN_TRANSFER;
    if ((flags & tierMask) !== 0 || (flags & validMask & ~validBit(arena)) !== 0) return DROPPABLE;
    if (this.refs[page] !== 0) return MOVABLE;
    if (this.index.childrenOf(page) === 0) return DROPPABLE;
    return arena === this.numArenas - 1 ? BLOCKED : MOVABLE;
  }

  /** Whether the page's slot in arena 1 can be given up without loss. */
  isDuplicate(page: number): boolean {
    const flags = this.flags[page] as number;
    return (flags & validBit(0)) !== 0 && (flags & markMask) === 0 && (this.slots[1] as Int32Array)[page] !== NONE;
  }

  /** Puts the page where it belongs after a change of anything that the rules read. */
  settle(page: number): void {
    const flags = this.flags[page] as number;
    const oldOrder = orderOf(flags);
    const order = this.orderFor(page);
    if (this.duplicates !== undefined && this.isDuplicate(page) !== this.duplicates.has(page)) {
      if (this.duplicates.has(page)) this.duplicates.delete(page);
      else this.duplicates.add(page);
    }
    if (order < 0 && oldOrder < 0) return;
    const oldClass = classOf(flags);
    const pageClass = order < 0 ? 0 : this.classFor(page, order);
    if (order === oldOrder && pageClass === oldClass) return;
    this.flags[page] = (flags & ~(orderMask | classMask)) | ((order + 1) << orderShift) | (pageClass << classShift);
    if (order === oldOrder) (this.orders[order] as EvictionOrder).reclassify(page, oldClass, pageClass);
    else {
      if (oldOrder >= 0) (this.orders[oldOrder] as EvictionOrder).remove(page, oldClass);
      if (order >= 0) (this.orders[order] as EvictionOrder).insert(page, pageClass);
    }
  }

  /**
   * The last reference went, or the last mark or valid copy of an unreferenced page: it stays if it can be found and used, else it is
   * dropped. Slots that nobody is going to fill any more are freed.
   */
  unreferenced(page: number): void {
    const flags = this.flags[page] as number;
    if ((flags & stateMask) === ACTIVE || (flags & (validMask | markMask)) === 0) {
      this.drop(page);
      return;
    }
    if ((flags & stateMask) !== CACHED) this.setState(page, CACHED);
    for (let arena = 0; arena < this.numArenas; arena++) {
      if ((flags & (markMask | validBit(arena))) === 0) this.freeSlot(page, arena);
    }
    this.settle(page);
  }

  /** Takes the page out of the index and the orders, and frees it, unless a transfer or a child still needs its slots or its id. */
  drop(page: number): void {
    if (((this.flags[page] as number) & stateMask) !== ACTIVE) {
      this.observer?.removed(page);
      const parent = this.index.remove(page);
      this.setState(page, ACTIVE);
      if (parent !== NONE) this.childLeft(parent);
    }
    const flags = (this.flags[page] as number) & ~(validMask | tierMask);
    this.flags[page] = flags;
    if (flags !== ACTIVE || this.duplicates !== undefined) this.settle(page);
    if (((this.flags[page] as number) & markMask) === 0) this.freeGone(page);
  }

  /** Frees what a dropped page without marks holds: its slots, and its id unless children name it. */
  freeGone(page: number): void {
    for (let arena = 0; arena < this.numArenas; arena++) this.freeSlot(page, arena);
    if (this.index.childrenOf(page) !== 0) return;
    for (let i = 0; i < this.#forgetful.length; i++) this.#forgetful[i]?.forget?.(page);
    this.setState(page, FREE);
    this.lists.push(page);
  }

  freeSlot(page: number, arena: number): void {
    const slots = this.slots[arena] as Int32Array;
    const slot = slots[page] as number;
    if (slot === NONE) return;
    (this.maps[arena] as SlotMap).give(slot);
    slots[page] = NONE;
  }

  /** A child of the page has left the index. */
  childLeft(page: number): void {
    if (this.index.childrenOf(page) !== 0) return;
    if (!this.isGone(page)) this.settle(page);
    else if (((this.flags[page] as number) & markMask) === 0) this.freeGone(page);
  }

  /** Free pages, the next to be taken first. */
  freePages(): Iterable<number> {
    return this.lists.stack();
  }

  /** @throws ERR_KVASIR_INTERNAL: a caller kept an id too long. */
  fail(page: number, why: string): never {
    throw new KvasirError("ERR_KVASIR_INTERNAL", `Page ${page} ${why}`);
  }
}

/** Hears of pages in the index. */
export interface PoolObserver {
  /** The page was sealed, and is valid where the pool says. */
  stored(page: number): void;
  /** The page leaves the index; its key is still there. */
  removed(page: number): void;
  /** The arenas or tiers that hold a valid copy have changed. */
  moved(page: number): void;
}
