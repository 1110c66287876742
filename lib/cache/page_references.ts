/** The first part of a PagePool: the life of its pages, from creation through references and uses to their end. */
import { KvasirError } from "../errors.js";
import { checkInteger } from "../options.js";
import type { PolicyFactory } from "./eviction.js";
import { lru } from "./eviction_lru.js";
import { CACHED, FREE, markMask, markShift, type PageState, pageStates, SEALED, stateMask, validBit } from "./page_flags.js";
import { NONE } from "./page_lists.js";
import { PoolState } from "./pool_state.js";
import type { SlotMap } from "./slot_map.js";

/** Records of pages are addressed with 32-bit integers. */
const maxPages = 2 ** 27;

export interface PagePoolOptions {
  /** Slots of arena 0, and of arena 1 where there is one. */
  slots: readonly number[];
  /** Pages; default: as many as slots of all arenas. */
  pages?: number | undefined;
  /** One for each arena; default: LRU. */
  policies?: readonly PolicyFactory[] | undefined;
  /** Tokens of a page. */
  pageSize: number;
}

export class PageReferences {
  readonly numPages: number;
  readonly numArenas: number;
  /** Tokens of a page. */
  readonly pageSize: number;
  protected readonly inside: PoolState;
  readonly #refs: Int32Array;
  readonly #uses: Int32Array;
  readonly #flags: Uint16Array;

  /** @throws ERR_KVASIR_INVALID_ARGUMENT */
  constructor({ slots, pages, pageSize, policies }: PagePoolOptions) {
    checkInteger("slots.length", slots.length, 1, 2);
    slots.forEach((count, arena) => {
      checkInteger(`slots[${arena}]`, count, 1, maxPages);
    });
    checkInteger("pageSize", pageSize, 1);
    this.numPages = checkInteger("pages", pages ?? slots.reduce((sum, count) => sum + count, 0), 1, maxPages);
    this.numArenas = slots.length;
    this.pageSize = pageSize;
    const factories = slots.map((_, arena) => policies?.[arena] ?? lru);
    this.inside = new PoolState(this.numPages, slots, pageSize, factories);
    this.#refs = this.inside.refs;
    this.#uses = this.inside.uses;
    this.#flags = this.inside.flags;
  }

  /** Pages that `take` can give now, without evicting. */
  get numFree(): number {
    return Math.min(this.inside.counts[FREE] as number, this.freeSlots(0));
  }

  /** Pages that `create` can give now. */
  get numFreePages(): number {
    return this.inside.counts[FREE] as number;
  }

  numSlots(arena: number): number {
    return this.map(arena).size;
  }

  freeSlots(arena: number): number {
    return this.map(arena).numFree;
  }

  usedSlots(arena: number): number {
    const map = this.map(arena);
    return map.size - map.numFree;
  }

  /** Most slots of arena 0 that were in use at once. */
  get peakUsed(): number {
    return this.map(0).peakUsed;
  }

  /** Pages per state. */
  counts(): Record<PageState, number> {
    return Object.fromEntries(pageStates.map((state, i) => [state, this.inside.counts[i] ?? 0])) as Record<PageState, number>;
  }

  /** A page with one reference and one use, and no slot. @throws ERR_KVASIR_OUT_OF_PAGES */
  create(): number {
    const page = this.inside.takePage();
    if (page === NONE) throw outOfPages(this.numPages);
    return page;
  }

  /** A page with one reference, one use and a valid slot of arena 0: what appends write into. @throws ERR_KVASIR_OUT_OF_PAGES */
  take(): number {
    const map = this.map(0);
    if (map.numFree === 0) throw outOfPages(map.size);
    const page = this.create();
    (this.inside.slots[0] as Int32Array)[page] = map.take();
    this.#flags[page] = (this.#flags[page] as number) | validBit(0);
    return page;
  }

  /** One more table entry refers to the page; or, where it is no use, a pin or the entry of a suspended sequence. */
  retain(page: number, isUse = true): void {
    const refs = this.refCount(page);
    const uses = this.#uses[page] as number;
    this.#refs[page] = refs + 1;
    if (isUse) this.#uses[page] = uses + 1;
    if (refs === 0) this.inside.setState(page, SEALED);
    if (refs === 0 || (isUse && uses === 0)) this.inside.settle(page);
  }

  /** One fewer does. With the last one, a sealed page becomes CACHED and any other is free again, once no transfer marks it. */
  release(page: number, isUse = true): void {
    const refs = (this.#refs[page] as number) - 1;
    const uses = (this.#uses[page] as number) - (isUse ? 1 : 0);
    if (!(uses >= 0 && uses <= refs)) this.inside.fail(page, `loses a ${isUse ? "use" : "reference"} that it does not have`);
    this.#refs[page] = refs;
    this.#uses[page] = uses;
    if (refs === 0) this.inside.unreferenced(page);
    else if (isUse && uses === 0) this.inside.settle(page);
  }

  /** `retain` for each of `pages`; NONE is passed over. */
  retainAll(pages: Int32Array, isUse = true): void {
    const refs = this.#refs;
    const uses = this.#uses;
    for (let i = 0; i < pages.length; i++) {
      const page = pages[i] as number;
      if (page < 0) continue;
      // Where nothing else changes, the page's numbers alone are touched: they lie far apart.
      const count = refs[page] as number;
      if (count > 0 && (!isUse || (uses[page] as number) > 0)) {
        refs[page] = count + 1;
        if (isUse) uses[page] = (uses[page] as number) + 1;
      } else this.retain(page, isUse);
    }
  }

  /** `release` for each of `pages`, the last one first, so that the end of a chain is colder than its beginning; NONE is passed over. */
  releaseAll(pages: Int32Array, isUse = true): void {
    for (let i = pages.length - 1; i >= 0; i--) if ((pages[i] as number) >= 0) this.release(pages[i] as number, isUse);
  }

  /** One of the references becomes a use: its sequence runs. */
  use(page: number): void {
    const uses = this.#uses[page] as number;
    if (uses >= this.refCount(page)) this.inside.fail(page, "has no reference that is not a use already");
    this.#uses[page] = uses + 1;
    if (uses === 0) this.inside.settle(page);
  }

  /** One of the uses becomes a mere reference: its sequence is suspended. */
  unuse(page: number): void {
    const uses = (this.#uses[page] as number) - 1;
    if (!(uses >= 0)) this.inside.fail(page, "loses a use that it does not have");
    this.#uses[page] = uses;
    if (uses === 0) this.inside.settle(page);
  }

  /**
   * References to a page that is not free; 0 for a cached one.
   * @throws ERR_KVASIR_INTERNAL for a free page: a caller kept an id too long.
   */
  refCount(page: number): number {
    const refs = this.#refs[page];
    if (refs === undefined || (refs === 0 && this.state(page) !== CACHED)) this.inside.fail(page, "is not in use");
    return refs;
  }

  /** Whether nothing refers to the page any more and it cannot be found: a transfer, or a page that follows it, still holds its id. */
  isGone(page: number): boolean {
    return this.inside.isGone(page);
  }

  useCount(page: number): number {
    return this.#uses[page] as number;
  }

  /** Rises each time the page is reused: a completion that carries an older epoch speaks of another page. */
  epoch(page: number): number {
    return this.inside.epochs[page] ?? 0;
  }

  /** FREE, ACTIVE, SEALED or CACHED. */
  state(page: number): number {
    return (this.#flags[page] as number) & stateMask;
  }

  /** The page's MARK_ bits. */
  marks(page: number): number {
    return ((this.#flags[page] as number) & markMask) >>> markShift;
  }

  protected map(arena: number): SlotMap {
    const map = this.inside.maps[arena];
    if (map === undefined) throw new KvasirError("ERR_KVASIR_INTERNAL", `Arena ${arena} of ${this.numArenas} does not exist`);
    return map;
  }
}

/** All of `total` pages or slots are in use. */
export function outOfPages(total: number, what = "page"): KvasirError {
  return new KvasirError(
    "ERR_KVASIR_OUT_OF_PAGES",
    `Need 1 ${what} but 0 of ${total} are free; free a sequence, or raise maxPages`,
  );
}
