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

/** `parents[page]` of a first page is `firstRoot - id` of its root. */
const firstRoot = -2;

export class PrefixIndex {
  /** KEY_WORDS words a page. */
  readonly keys: Uint32Array;
  /** Pages in the index whose parent this is. */
  readonly children: Int32Array;
  readonly tokens: TokenStore;
  readonly #roots: RootTable = new RootTable();
  /** A page, a root as above, or NONE for a page that is not in the index. */
  readonly #parents: Int32Array;
  readonly #heads: Int32Array;
  readonly #next: Int32Array;
  readonly #mask: number;
  #size = 0;
  #collisions = 0;

  constructor(numPages: number, pageSize: number) {
    this.keys = new Uint32Array(numPages * KEY_WORDS);
    this.children = new Int32Array(numPages);
    this.tokens = new TokenStore(numPages, pageSize);
    this.#parents = new Int32Array(numPages).fill(NONE);
    // At most one head for each page: between one and two pages a chain when all are sealed.
    const numHeads = 2 ** Math.floor(Math.log2(Math.max(1, numPages)));
    this.#heads = new Int32Array(numHeads).fill(NONE);
    this.#next = new Int32Array(numPages).fill(NONE);
    this.#mask = numHeads - 1;
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
    const arrays = [this.keys, this.children, this.#parents, this.#heads, this.#next];
    return arrays.reduce((sum, array) => sum + array.byteLength, this.#roots.metadataBytes);
  }

  has(page: number): boolean {
    return this.#parents[page] !== NONE;
  }

  /**
   * Enters the page. Returns it, or the page that holds the same content, or NONE where the key stands for other content; then nothing
   * has changed.
   */
  add(page: number, keys: Uint32Array, at: number, parent: number, root: Uint32Array, tokens: Int32Array, from: number): number {
    const holder = this.#holder(keys, at);
    if (holder !== NONE) {
      if (this.#isSame(holder, parent, root, tokens, from)) return holder;
      this.#collisions++;
      return NONE;
    }
    const word = page * KEY_WORDS;
    for (let i = 0; i < KEY_WORDS; i++) this.keys[word + i] = keys[at + i] as number;
    this.tokens.set(page, tokens, from);
    if (parent === NONE) this.#parents[page] = firstRoot - this.#roots.acquire(root);
    else {
      this.#parents[page] = parent;
      this.children[parent] = (this.children[parent] as number) + 1;
    }
    const bucket = this.#bucket(keys, at);
    this.#next[page] = this.#heads[bucket] as number;
    this.#heads[bucket] = page;
    this.#size++;
    return page;
  }

  /** Takes the page out. Its key stays readable until the page is reused. Returns the parent page, or NONE. */
  remove(page: number): number {
    const bucket = this.#bucket(this.keys, page * KEY_WORDS);
    const after = this.#next[page] as number;
    if (this.#heads[bucket] === page) this.#heads[bucket] = after;
    else {
      let before = this.#heads[bucket] as number;
      while (this.#next[before] !== page) before = this.#next[before] as number;
      this.#next[before] = after;
    }
    this.#next[page] = NONE;
    this.#size--;
    const parent = this.#parents[page] as number;
    this.#parents[page] = NONE;
    if (parent < 0) {
      this.#roots.release(firstRoot - parent);
      return NONE;
    }
    this.children[parent] = (this.children[parent] as number) - 1;
    return parent;
  }

  /**
   * The page that holds `tokens[from, from + pageSize)` after `parent` (NONE: after `root`) under the key `keys[at, at + KEY_WORDS)`,
   * or NONE.
   */
  find(keys: Uint32Array, at: number, parent: number, root: Uint32Array, tokens: Int32Array, from: number): number {
    const page = this.#holder(keys, at);
    if (page === NONE || this.#isSame(page, parent, root, tokens, from)) return page;
    this.#collisions++;
    return NONE;
  }

  /** The longest chain of pages that holds a beginning of `tokens`; keys run along, KEY_WORDS a page. */
  match(keys: Uint32Array, root: Uint32Array, tokens: Int32Array): Int32Array {
    const { pageSize } = this.tokens;
    const most = Math.min(Math.floor(tokens.length / pageSize), Math.floor(keys.length / KEY_WORDS));
    const pages = new Int32Array(most);
    let count = 0;
    for (let parent = NONE; count < most; count++) {
      parent = this.find(keys, count * KEY_WORDS, parent, root, tokens, count * pageSize);
      if (parent === NONE) break;
      pages[count] = parent;
    }
    return count === most ? pages : pages.slice(0, count);
  }

  /** The page before this one; NONE for a first page and for a page that is not in the index. */
  parentOf(page: number): number {
    return Math.max(NONE, this.#parents[page] ?? NONE);
  }

  /** Writes the key of what comes before the page, its parent's or the root. */
  parentKey(page: number, out: Uint32Array, at: number): void {
    const parent = this.#parents[page] as number;
    if (parent < 0) this.#roots.copyTo(firstRoot - parent, out, at);
    else for (let i = 0; i < KEY_WORDS; i++) out[at + i] = this.keys[parent * KEY_WORDS + i] as number;
  }

  /** Recounts the table: every page of `isSealed` is found under its key once, and nothing else is. */
  problems(numPages: number, isSealed: (page: number) => boolean): string[] {
    const found: string[] = [];
    const children = new Int32Array(numPages);
    const entries = new Uint8Array(numPages);
    for (const head of this.#heads) {
      for (let page = head; page !== NONE && entries[page] === 0; page = this.#next[page] as number) entries[page] = 1;
    }
    for (let page = 0; page < numPages; page++) {
      if ((entries[page] === 1) !== isSealed(page) || this.has(page) !== isSealed(page))
        found.push(`I5: page ${page} is ${isSealed(page) ? "" : "not "}sealed, but the index says otherwise`);
      if (entries[page] === 1 && this.#holder(this.keys, page * KEY_WORDS) !== page)
        found.push(`I5: the key of page ${page} leads to page ${this.#holder(this.keys, page * KEY_WORDS)}`);
      const parent = this.#parents[page] as number;
      if (parent >= 0) children[parent] = (children[parent] as number) + 1;
    }
    for (let page = 0; page < numPages; page++) {
      if (children[page] !== this.children[page])
        found.push(`I6: page ${page} counts ${this.children[page]} children, a recount gives ${children[page]}`);
    }
    const size = entries.reduce((sum, entry) => sum + entry, 0);
    if (size !== this.#size) found.push(`I5: ${this.#size} pages counted in the index, a recount gives ${size}`);
    return found;
  }

  #bucket(keys: Uint32Array, at: number): number {
    return ((keys[at] as number) ^ Math.imul(keys[at + 1] as number, 0x9e3779b1)) & this.#mask;
  }

  /** The page in the index whose key this is, or NONE. */
  #holder(keys: Uint32Array, at: number): number {
    let page = this.#heads[this.#bucket(keys, at)] as number;
    while (page !== NONE && !sameKey(this.keys, page * KEY_WORDS, keys, at)) page = this.#next[page] as number;
    return page;
  }

  #isSame(page: number, parent: number, root: Uint32Array, tokens: Int32Array, from: number): boolean {
    const own = this.#parents[page] as number;
    if (parent === NONE) {
      if (own >= 0 || !this.#roots.equals(firstRoot - own, root)) return false;
    } else if (own !== parent) {
      // Another page of the same content: a parent that was lost and computed again.
      if (own < 0 || !this.has(parent) || !sameKey(this.keys, own * KEY_WORDS, this.keys, parent * KEY_WORDS)) return false;
    }
    return this.tokens.equals(page, tokens, from);
  }
}

function sameKey(a: Uint32Array, at: number, b: Uint32Array, bt: number): boolean {
  return a[at] === b[bt] && a[at + 1] === b[bt + 1] && a[at + 2] === b[bt + 2] && a[at + 3] === b[bt + 3];
}
