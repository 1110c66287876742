/** A handle on one sequence of a cache: a row of its tables. `dispose` frees its pages; a second dispose is a no-op. */
import { KvasirError } from "../errors.js";
import type { KvCache } from "./kv_cache.js";

export class Sequence implements Disposable {
  readonly cache: KvCache;
  #row: number | undefined;

  constructor(cache: KvCache, row: number) {
    this.cache = cache;
    this.#row = row;
  }

  /** Row of the cache's tables. @throws ERR_KVASIR_DISPOSED */
  get row(): number {
    if (this.#row === undefined) throw new KvasirError("ERR_KVASIR_DISPOSED", "Sequence was disposed; create or fork another");
    return this.#row;
  }

  /** Tokens whose keys and values are cached. */
  get length(): number {
    return this.cache.length(this.row);
  }

  get disposed(): boolean {
    return this.#row === undefined;
  }

  /** Makes room for `tokens` more tokens. @throws ERR_KVASIR_OUT_OF_PAGES, and then nothing has changed. */
  reserve(tokens: number): void {
    this.cache.reserve([this.row], [tokens]);
  }

  /** Counts `tokens` reserved tokens as written. */
  commit(tokens: number): void {
    this.cache.commit(this.row, tokens);
  }

  /** Forgets the tokens from `length` on. */
  truncate(length: number): void {
    this.cache.truncate(this.row, length);
  }

  /** A sequence with the same tokens that shares its pages, copied on write. */
  fork(): Sequence {
    return this.cache.fork(this.row);
  }

  dispose(): void {
    if (this.#row === undefined) return;
    this.cache.free(this.#row);
    this.#row = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
