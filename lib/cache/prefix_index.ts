/**
 * What sealed pages hold, and where: key -> page, each page's key, parent and tokens, and how many pages have it as parent.
 *
 *   key(page i) = hash(key(page i - 1) or root, tokens of page i), KEY_WORDS words
 *
 * A hash table chained through one array, over the key words of the pages themselves; it is sized once and never grows. A match of the key
 * is not believed: the parent's key and the tokens must be the same, else it is a collision, which is counted and is a miss.
 *
 * Children name their parent by page id, so a page that has left the index keeps its key until its last child has left too.
 */
import { NONE } from "./page_lists.js";
import { RootTable } from "./root_table.js";
import { KEY_WORDS } from "./tier_driver.js";
import { TokenStore } from "./token_store.js";

/** Parent word of a first page: `firstRoot - id` of its root. */
const firstRoot = -2;

/**
 * What the index knows of a page is one record of eight words, half a cache line: its key, its parent (a page, a root as above, or NONE
 * outside the index), the next page of its chain, and its children. The last word belongs to no page: it is the head of chain number `page`.
 */
const recordShift = 3;
const parentWord = 4;
const nextWord = 5;
const childrenWord = 6;
const headWord = 7;
/** Pages of a match that are looked up before the first of them is verified, so that the memory's latencies overlap. */
const lookAhead = 64;

/** A part of a match, so that a long one need not hold the event loop: it goes on where another part ended. */
export interface MatchSpan {
  /** The first page to look for, default 0. */
  first?: number;
  /** The page that was found before it, default NONE: none. */
  parent?: number;
  /** Pages at most. */
  limit?: number;
}

export class PrefixIndex {
  readonly tokens: TokenStore;
  readonly #roots: RootTable = new RootTable();
  readonly #records: Int32Array;
  /** Chains, less one: a power of two, at most as many as pages. */
  readonly #mask: number;
  #size = 0;
  #collisions = 0;

  constructor(numPages: number, pageSize: number) {
    this.tokens = new TokenStore(numPages, pageSize);
    this.#records = new Int32Array(numPages << recordShift).fill(NONE);
    for (let page = 0; page < numPages; page++) this.#records[(page << recordShift) + childrenWord] = 0;
    this.#mask = 2 ** Math.floor(Math.log2(Math.max(1, numPages))) - 1;
  }

  /** Pages in the index. */
  get size(): number {
    return this.#size;
  }

  /** Look-ups that met the same key over another parent or other tokens. */
  get collisions(): number {
    return this.#collisions;
  }

  get metadataBytes(): number {
    return this.#records.byteLength + this.#roots.metadataBytes;
  }

  has(page: number): boolean {
    return this.#records[(page << recordShift) + parentWord] !== NONE;
  }

  /** Pages in the index whose parent the page is. */
  childrenOf(page: number): number {
    return this.#records[(page << recordShift) + childrenWord] as number;
  }

  /** Word `i` of the page's key. */
  keyWord(page: number, i: number): number {
    return (this.#records[(page << recordShift) + i] as number) >>> 0;
  }

  /** Writes the page's key, of a page in the index or one that others name as their parent. */
  copyKey(page: number, out: Uint32Array, at: number): void {
    for (let i = 0; i < KEY_WORDS; i++) out[at + i] = this.keyWord(page, i);
  }

  /**
   * Enters the page. Returns it, or the page that holds the same content, or NONE where the key stands for other content; then nothing
   * has changed.
   */
  add(page: number, keys: Uint32Array, at: number, parent: number, root: Uint32Array, tokens: Int32Array, from: number): number {
    const holder = this.#holder(this.#head(keys, at), keys, at);
    if (holder !== NONE) {
      if (this.#isSame(holder, parent, root, tokens, from)) return holder;
      this.#collisions++;
      return NONE;
    }
    const records = this.#records;
    const record = page << recordShift;
    for (let i = 0; i < KEY_WORDS; i++) records[record + i] = keys[at + i] as number;
    this.tokens.set(page, tokens, from);
    if (parent === NONE) records[record + parentWord] = firstRoot - this.#roots.acquire(root);
    else {
      records[record + parentWord] = parent;
      this.#addChildren(parent, 1);
    }
    const head = this.#headAt(record);
    records[record + nextWord] = records[head] as number;
    records[head] = page;
    this.#size++;
    return page;
  }

  /** Takes the page out. Its key stays readable until the page is reused. Returns the parent page, or NONE. */
  remove(page: number): number {
    const records = this.#records;
    const record = page << recordShift;
    let link = this.#headAt(record);
    while (records[link] !== page) link = ((records[link] as number) << recordShift) + nextWord;
    records[link] = records[record + nextWord] as number;
    this.#size--;
    const parent = records[record + parentWord] as number;
    records[record + parentWord] = NONE;
    if (parent < 0) {
      this.#roots.release(firstRoot - parent);
      return NONE;
    }
    this.#addChildren(parent, -1);
    return parent;
  }

  /**
   * The page that holds `tokens[from, from + pageSize)` after `parent` (NONE: after `root`) under the key `keys[at, at + KEY_WORDS)`,
   * or NONE.
   */
  find(keys: Uint32Array, at: number, parent: number, root: Uint32Array, tokens: Int32Array, from: number): number {
    return this.#verified(this.#head(keys, at), keys, at, parent, root, tokens, from);
  }

  /** The longest chain of pages that holds a beginning of `tokens`; keys run along, KEY_WORDS a page. See MatchSpan for a part of it. */
  match(keys: Uint32Array, root: Uint32Array, tokens: Int32Array, span: MatchSpan = {}): Int32Array {
    const { pageSize } = this.tokens;
    const all = Math.min(Math.floor(tokens.length / pageSize), Math.floor(keys.length / KEY_WORDS));
    const begin = span.first ?? 0;
    const most = Math.max(0, Math.min(all - begin, span.limit ?? all));
    const pages = new Int32Array(most);
    let parent = span.parent ?? NONE;
    for (let done = 0; done < most; ) {
      const end = Math.min(done + lookAhead, most);
      for (let i = done; i < end; i++) pages[i] = this.#head(keys, (begin + i) * KEY_WORDS);
      for (; done < end; done++) {
        const at = begin + done;
        parent = this.#verified(pages[done] as number, keys, at * KEY_WORDS, parent, root, tokens, at * pageSize);
        if (parent === NONE) return pages.slice(0, done);
        pages[done] = parent;
      }
    }
    return pages;
  }

  /** The page before this one; NONE for a first page and for a page that is not in the index. */
  parentOf(page: number): number {
    return Math.max(NONE, this.#records[(page << recordShift) + parentWord] ?? NONE);
  }

  /** Writes the key of what comes before the page, its parent's or the root. */
  parentKey(page: number, out: Uint32Array, at: number): void {
    const parent = this.#records[(page << recordShift) + parentWord] as number;
    if (parent < 0) this.#roots.copyTo(firstRoot - parent, out, at);
    else this.copyKey(parent, out, at);
  }

  /** Recounts the table: every page of `isSealed` is found under its key once, and nothing else is. */
  problems(numPages: number, isSealed: (page: number) => boolean): string[] {
    const found: string[] = [];
    const records = this.#records;
    const children = new Int32Array(numPages);
    const entries = new Uint8Array(numPages);
    for (let head = 0; head <= this.#mask; head++) {
      let page = records[(head << recordShift) + headWord] as number;
      for (; page !== NONE && entries[page] === 0; page = records[(page << recordShift) + nextWord] as number) entries[page] = 1;
    }
    const key = new Uint32Array(KEY_WORDS);
    for (let page = 0; page < numPages; page++) {
      if ((entries[page] === 1) !== isSealed(page) || this.has(page) !== isSealed(page))
        found.push(`I5: page ${page} is ${isSealed(page) ? "" : "not "}sealed, but the index says otherwise`);
      this.copyKey(page, key, 0);
      const holder = entries[page] === 1 ? this.#holder(this.#head(key, 0), key, 0) : page;
      if (holder !== page) found.push(`I5: the key of page ${page} leads to page ${holder}`);
      const parent = this.parentOf(page);
      if (parent >= 0) children[parent] = (children[parent] as number) + 1;
    }
    for (let page = 0; page < numPages; page++) {
      if (children[page] !== this.childrenOf(page))
        found.push(`I6: page ${page} counts ${this.childrenOf(page)} children, a recount gives ${children[page]}`);
    }
    const size = entries.reduce((sum, entry) => sum + entry, 0);
    if (size !== this.#size) found.push(`I5: ${this.#size} pages counted in the index, a recount gives ${size}`);
    return found;
  }

  #addChildren(page: number, difference: number): void {
    const word = (page << recordShift) + childrenWord;
    this.#records[word] = (this.#records[word] as number) + difference;
  }

  /** Place of the head of the chain of the key in a record. */
  #headAt(record: number): number {
    return (this.#chainOf(this.#records[record] as number, this.#records[record + 1] as number) << recordShift) + headWord;
  }

  /** First page of the chain of a key, or NONE. */
  #head(keys: Uint32Array, at: number): number {
    return this.#records[(this.#chainOf(keys[at] as number, keys[at + 1] as number) << recordShift) + headWord] as number;
  }

  #chainOf(first: number, second: number): number {
    return (first ^ Math.imul(second, 0x9e3779b1)) & this.#mask;
  }

  /** The page whose key this is, in the chain from `head`, or NONE. */
  #holder(head: number, keys: Uint32Array, at: number): number {
    const records = this.#records;
    const [a, b, c, d] = [
      (keys[at] as number) | 0,
      (keys[at + 1] as number) | 0,
      (keys[at + 2] as number) | 0,
      (keys[at + 3] as number) | 0,
    ];
    for (let page = head; page !== NONE; ) {
      const record = page << recordShift;
      if (records[record] === a && records[record + 1] === b && records[record + 2] === c && records[record + 3] === d)
        return page;
      page = records[record + nextWord] as number;
    }
    return NONE;
  }

  /** The page of the chain that has the key and holds what it stands for, or NONE, which may be a collision. */
  #verified(
    head: number,
    keys: Uint32Array,
    at: number,
    parent: number,
    root: Uint32Array,
    tokens: Int32Array,
    from: number,
  ): number {
    const page = this.#holder(head, keys, at);
    if (page === NONE || this.#isSame(page, parent, root, tokens, from)) return page;
    this.#collisions++;
    return NONE;
  }

  #isSame(page: number, parent: number, root: Uint32Array, tokens: Int32Array, from: number): boolean {
    const own = this.#records[(page << recordShift) + parentWord] as number;
    if (parent === NONE) {
      if (own >= 0 || !this.#roots.equals(firstRoot - own, root)) return false;
    } else if (own !== parent) {
      // Another page of the same content: a parent that was lost and computed again.
      if (own < 0 || !this.has(parent) || !this.#haveSameKey(own, parent)) return false;
    }
    return this.tokens.equals(page, tokens, from);
  }

  #haveSameKey(a: number, b: number): boolean {
    for (let i = 0; i < KEY_WORDS; i++) if (this.keyWord(a, i) !== this.keyWord(b, i)) return false;
    return true;
  }
}
