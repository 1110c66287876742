/** Keys of a prompt's pages that a native thread still hashes: those of the first pages can be looked up meanwhile. */
import { hashPages, pageKeysSync } from "../page_keys.js";
import { KEY_WORDS } from "./tier_driver.js";
import { mostAtOnce } from "./token_log.js";

export class ComingKeys {
  /** KEY_WORDS words a page; those of pages from `known` on are yet to come. */
  readonly words: Uint32Array;
  readonly #known: () => number;
  readonly #done: Promise<unknown>;

  private constructor(words: Uint32Array, known: () => number, done: Promise<unknown>) {
    this.words = words;
    this.#known = known;
    this.#done = done;
    done.catch(() => undefined); // `upTo` tells
  }

  /** Keys that are there. */
  static of(words: Uint32Array): ComingKeys {
    return new ComingKeys(words, () => words.length / KEY_WORDS, Promise.resolve());
  }

  /** Of the full pages of `tokens`, behind `parent`; `tokens` may change afterwards. */
  static hash(tokens: Int32Array, pageSize: number, parent: Uint32Array): ComingKeys {
    // Few are hashed in less time than it takes to ask another thread to do it.
    if (tokens.length <= mostAtOnce) return ComingKeys.of(pageKeysSync(tokens, pageSize, parent));
    const { keys, known, done } = hashPages(tokens, pageSize, parent);
    return new ComingKeys(keys, known, done);
  }

  get count(): number {
    return this.words.length / KEY_WORDS;
  }

  /** Resolves when the keys of the first `pages` pages are known; the event loop turns until then. */
  async upTo(pages: number): Promise<void> {
    if (pages >= this.count) await this.#done;
    while (this.#known() < pages) await new Promise((resolve) => setImmediate(resolve));
  }
}
