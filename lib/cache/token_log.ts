/**
 * The tokens of one sequence as far as the host knows them, and the keys of its full pages. Decoding leaves the host a step behind the
 * device, so the log may be shorter than the sequence; a token that was chosen but not yet appended makes it longer.
 */
import { pageKeysSync } from "../page_keys.js";
import { KEY_WORDS } from "./tier_driver.js";

/** Most tokens that are hashed in one go on the JavaScript thread: some 20 microseconds. */
export const mostAtOnce = 4096;

export class TokenLog {
  /** Key before the first page's: it stands for the model, the layout and the tenant. */
  readonly root: Uint32Array;
  readonly #pageSize: number;
  #tokens: Int32Array = new Int32Array(0);
  #length = 0;
  #keys: Uint32Array = new Uint32Array(0);
  #numKeys = 0;

  constructor(root: Uint32Array, pageSize: number) {
    this.root = root;
    this.#pageSize = pageSize;
  }

  get length(): number {
    return this.#length;
  }

  /** Full pages whose keys are known. */
  get numKeys(): number {
    return this.#numKeys;
  }

  /** Keys of the first `numKeys` pages, KEY_WORDS words each; valid until the next change. */
  get keys(): Uint32Array {
    return this.#keys.subarray(0, this.#numKeys * KEY_WORDS);
  }

  /** Tokens [from, to); valid until the next change. */
  tokens(from = 0, to: number = this.#length): Int32Array {
    return this.#tokens.subarray(from, to);
  }

  /**
   * Puts tokens at `position`; where they differ from what was there, what was there after them is forgotten. Nothing can follow a gap:
   * what is not known cannot be hashed.
   */
  write(position: number, tokens: ArrayLike<number>): void {
    if (position > this.#length) return;
    let known = 0;
    while (known < tokens.length && position + known < this.#length && this.#tokens[position + known] === tokens[known]) known++;
    if (known === tokens.length) return;
    this.truncate(position + known);
    const end = position + tokens.length;
    if (end > this.#tokens.length) {
      const grown = new Int32Array(Math.max(end, 2 * this.#tokens.length, 64));
      grown.set(this.#tokens.subarray(0, position));
      this.#tokens = grown;
    }
    this.#tokens.set(tokens, position);
    this.#length = end;
  }

  truncate(length: number): void {
    if (length >= this.#length) return;
    this.#length = length;
    this.#numKeys = Math.min(this.#numKeys, Math.floor(length / this.#pageSize));
  }

  /** Takes over keys that were computed elsewhere for the first pages of these very tokens. */
  giveKeys(keys: Uint32Array): void {
    const pages = Math.min(keys.length / KEY_WORDS, Math.floor(this.#length / this.#pageSize));
    if (pages <= this.#numKeys) return;
    this.#keys = keys.slice(0, pages * KEY_WORDS);
    this.#numKeys = pages;
  }

  /** Knows the keys of the first `pages` full pages afterwards, or of fewer where that would take long. Returns of how many. */
  hash(pages: number): number {
    const want = Math.min(pages, Math.floor(this.#length / this.#pageSize));
    const count = Math.min(want - this.#numKeys, Math.floor(mostAtOnce / this.#pageSize));
    if (count <= 0) return Math.min(want, this.#numKeys);
    const from = this.#numKeys;
    const fresh = pageKeysSync(
      this.#tokens.slice(from * this.#pageSize, (from + count) * this.#pageSize),
      this.#pageSize,
      this.keyBefore(from),
    );
    const end = (from + count) * KEY_WORDS;
    if (end > this.#keys.length) {
      const grown = new Uint32Array(Math.max(end, 2 * this.#keys.length));
      grown.set(this.keys);
      this.#keys = grown;
    }
    this.#keys.set(fresh, from * KEY_WORDS);
    this.#numKeys = from + count;
    return this.#numKeys;
  }

  /** Key of the page before page `page`: the root's for the first. */
  keyBefore(page: number): Uint32Array {
    return page === 0 ? this.root : this.#keys.slice((page - 1) * KEY_WORDS, page * KEY_WORDS);
  }

  clone(length: number): TokenLog {
    const copy = new TokenLog(this.root, this.#pageSize);
    copy.#tokens = this.#tokens.slice(0, Math.min(length, this.#length));
    copy.#length = copy.#tokens.length;
    copy.#numKeys = Math.min(this.#numKeys, Math.floor(copy.#length / this.#pageSize));
    copy.#keys = this.#keys.slice(0, copy.#numKeys * KEY_WORDS);
    return copy;
  }
}
