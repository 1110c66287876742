/**
 * Intrusive doubly linked lists over page ids: two link arrays, no object per page. A page is in at most one list, so the free list and
 * every eviction order share the arrays. Each list is a ring through a sentinel behind the pages, which spares all tests for its ends; it has
 * a cold end, from which pages are taken, and a hot end. Free pages are a stack, which needs one link a page.
 */

/** No page, no slot. */
export const NONE = -1;
/** Link of the bottom page of the stack. */
const bottom = -2;

export class PageLists {
  readonly numPages: number;
  readonly numLists: number;
  /** Towards the hot end; NONE for a page in no list. Entry `numPages + list` is the list's sentinel. */
  readonly #next: Int32Array;
  readonly #prev: Int32Array;
  #top = bottom;

  constructor(numPages: number, numLists: number) {
    this.numPages = numPages;
    this.numLists = numLists;
    this.#next = new Int32Array(numPages + numLists).fill(NONE);
    this.#prev = new Int32Array(numPages + numLists).fill(NONE);
    for (let sentinel = numPages; sentinel < numPages + numLists; sentinel++) {
      this.#next[sentinel] = sentinel;
      this.#prev[sentinel] = sentinel;
    }
  }

  get metadataBytes(): number {
    return this.#next.byteLength + this.#prev.byteLength;
  }

  /** Puts all pages on the empty stack, page 0 on top. */
  stackAll(): void {
    for (let page = this.numPages - 1; page >= 0; page--) this.push(page);
  }

  /** Puts a page that is in no list on the stack. */
  push(page: number): void {
    this.#next[page] = this.#top;
    this.#top = page;
  }

  /** Takes the top page off the stack, or returns NONE. */
  pop(): number {
    const page = this.#top;
    if (page < 0) return NONE;
    this.#top = this.#next[page] as number;
    this.#next[page] = NONE;
    return page;
  }

  pushHot(list: number, page: number): void {
    const sentinel = this.numPages + list;
    this.#link(this.#prev[sentinel] as number, page, sentinel);
  }

  pushCold(list: number, page: number): void {
    const sentinel = this.numPages + list;
    this.#link(sentinel, page, this.#next[sentinel] as number);
  }

  /** Takes the page out of the list that it is in. */
  remove(page: number): void {
    const before = this.#prev[page] as number;
    const after = this.#next[page] as number;
    this.#next[before] = after;
    this.#prev[after] = before;
    this.#next[page] = NONE;
  }

  /** The page at the cold end, or NONE. */
  coldest(list: number): number {
    const page = this.#next[this.numPages + list] as number;
    return page < this.numPages ? page : NONE;
  }

  isListed(page: number): boolean {
    return this.#next[page] !== NONE;
  }

  /** The pages of a list, coldest first; at most `numPages + 1`, so that a broken ring ends. */
  *pages(list: number): Generator<number> {
    let page = this.coldest(list);
    for (let i = 0; page !== NONE && i <= this.numPages; i++) {
      yield page;
      const next = this.#next[page] as number;
      page = next < this.numPages ? next : NONE;
    }
  }

  /** The pages on the stack, from the top. */
  *stack(): Generator<number> {
    let page = this.#top;
    for (let i = 0; page >= 0 && i <= this.numPages; i++) {
      yield page;
      page = this.#next[page] as number;
    }
  }

  #link(before: number, page: number, after: number): void {
    this.#next[before] = page;
    this.#prev[page] = before;
    this.#next[page] = after;
    this.#prev[after] = page;
  }
}
