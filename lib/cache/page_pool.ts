/**
 * The pages of one layer group. A logical page (id, epoch, references, key, parent, tokens) has a slot in each of up to two arenas: arena 0,
 * which kernels read, and arena 1, the host pool below it. Everything lives in typed arrays; a page is an index. Moving a page changes its
 * slots, never its identity. The pool moves no bytes: whoever copies a page marks it, copies, says that the copy is valid, and unmarks it.
 *
 *   refs  table entries and pins: they keep a page alive        uses  those of running sequences: they keep it in arena 0
 *
 * A page is in arena 0's eviction order when it has no uses and is valid there, in arena 1's when it has no uses, no slot in arena 0 and is
 * valid in arena 1; marked pages keep their place but are not evictable. A sealed page without references is CACHED: findable, evictable.
 * A pin is a reference without a use: the page may leave arena 0, but it stays alive and never becomes CACHED.
 *
 * Invariants, recounted by `problems`: every page is in one state and counters equal a recount (I1); references equal table entries and
 * pins (I2); a marked page is neither free nor evictable (I3); free pages, free slots and orders list nothing twice (I4); keys and pages in
 * the index correspond one to one (I5); the key of a page's parent stays readable (I6); only an unsealed page changes (I7).
 */
import { ACTIVE, FREE, SEALED, stateMask } from "./page_flags.js";
import { NONE } from "./page_lists.js";
import { PageResidency } from "./page_residency.js";
import { poolProblems } from "./pool_check.js";
import type { PoolObserver } from "./pool_state.js";
import type { MatchSpan } from "./prefix_index.js";

export {
  ACTIVE,
  CACHED,
  FREE,
  MARK_EVICT,
  MARK_IN,
  MARK_LOAD,
  MARK_OUT,
  MARK_STORE,
  type PageState,
  pageStates,
  SEALED,
  TIER_DISK,
  TIER_REMOTE,
} from "./page_flags.js";
export { NONE } from "./page_lists.js";
export type { PolicyFactory } from "./eviction.js";
export type { PagePoolOptions } from "./page_references.js";
export type { PoolObserver } from "./pool_state.js";
export type { MatchSpan } from "./prefix_index.js";

export class PagePool extends PageResidency {
  /** Bytes of the bookkeeping, token ids apart. */
  get metadataBytes(): number {
    return this.inside.metadataBytes;
  }

  /** Bytes of the token ids that hits are verified with. */
  get tokenBytes(): number {
    return this.inside.index.tokens.bytes;
  }

  /** Look-ups of a key that stands for other tokens or another parent. */
  get collisions(): number {
    return this.inside.index.collisions;
  }

  /** Hears of pages that enter, leave or move; one observer. */
  observe(observer: PoolObserver | undefined): void {
    this.inside.observer = observer;
  }

  /**
   * Makes a full page immutable and findable under `keys[at, at + KEY_WORDS)`: it holds `tokens[from, from + pageSize)` after the sealed
   * page `parent`, or after `root` where that is NONE.
   *
   * Returns the page; or the page that holds this content already, and then `page` stays ACTIVE and unfindable (its successors take the
   * returned page as their parent); or NONE where the key stands for other content, a counted collision.
   */
  seal(page: number, keys: Uint32Array, at: number, parent: number, root: Uint32Array, tokens: Int32Array, from: number): number {
    const { inside } = this;
    if (this.refCount(page) === 0 || this.state(page) !== ACTIVE) inside.fail(page, "is sealed already");
    if (parent !== NONE && !inside.index.has(parent)) inside.fail(parent, "is not sealed and cannot be a parent");
    const holder = inside.index.add(page, keys, at, parent, root, tokens, from);
    if (holder !== page) return holder;
    inside.setState(page, SEALED);
    inside.settle(page);
    if (parent !== NONE && inside.index.childrenOf(parent) === 1) inside.settle(parent);
    inside.observer?.stored(page);
    return page;
  }

  /**
   * The page that holds `tokens[from, from + pageSize)` after `parent` (NONE: after `root`) under the key `keys[at, at + KEY_WORDS)`, or
   * NONE. A key that stands for other tokens or another parent is a counted collision and a miss. It takes no reference.
   */
  find(keys: Uint32Array, at: number, parent: number, root: Uint32Array, tokens: Int32Array, from: number): number {
    return this.inside.index.find(keys, at, parent, root, tokens, from);
  }

  /**
   * The longest chain of sealed pages that holds a beginning of `tokens`; `keys` has KEY_WORDS words a page. It takes no reference. `span`
   * makes it a part of that: about 10 000 pages take a millisecond.
   */
  match(keys: Uint32Array, root: Uint32Array, tokens: Int32Array, span?: MatchSpan): Int32Array {
    return this.inside.index.match(keys, root, tokens, span);
  }

  /** Whether the page is immutable and findable under its key. */
  isSealed(page: number): boolean {
    return this.state(page) > ACTIVE;
  }

  /** Writes the KEY_WORDS words of a sealed page's key. */
  key(page: number, out: Uint32Array, at: number): void {
    this.#sealed(page);
    this.inside.index.copyKey(page, out, at);
  }

  /** Writes the key of what comes before a sealed page: its parent's, or its root. */
  parentKey(page: number, out: Uint32Array, at: number): void {
    this.#sealed(page);
    this.inside.index.parentKey(page, out, at);
  }

  /** The page before a sealed page, or NONE for a first page. */
  parentOf(page: number): number {
    this.#sealed(page);
    return this.inside.index.parentOf(page);
  }

  /** Sealed pages that follow the page. */
  childrenOf(page: number): number {
    return this.inside.index.childrenOf(page);
  }

  /** A sealed page's tokens: a view that holds while the page is sealed. */
  tokensOf(page: number): Int32Array {
    this.#sealed(page);
    return this.inside.index.tokens.of(page);
  }

  /**
   * Recounts everything against what the tables hold: `references[page]`, and `uses[page]` (default: the same). Returns what is wrong, one
   * sentence each.
   */
  problems(references: Int32Array, uses: Int32Array = references): string[] {
    return poolProblems(this.inside, references, uses);
  }

  #sealed(page: number): void {
    const state = (this.inside.flags[page] as number) & stateMask;
    if (state === FREE || state === ACTIVE) this.inside.fail(page, "is not sealed and has no key");
  }
}
