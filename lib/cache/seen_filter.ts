/**
 * Which pages were met before, approximately and in fixed memory: a page is worth a write to disk at its second use, for most are never
 * used again. A place is shared by all keys that fall on it and remembers the latest; so forgetting is possible, and a false "seen" takes
 * 31 equal bits of a key.
 */
import { KEY_WORDS } from "./tier_driver.js";

export class SeenFilter {
  /** 0: nothing yet; else 31 bits of the key, and in the top bit whether it came twice. */
  readonly #places: Uint32Array;

  /** @param keys how many keys it should remember, about */
  constructor(keys: number) {
    let places = 1024;
    while (places < 2 * keys && places < 1 << 24) places *= 2;
    this.#places = new Uint32Array(places);
  }

  /** Notes a use of the key at word `at`. */
  note(keys: Uint32Array, at = 0): void {
    const place = this.#place(keys, at);
    const mark = fingerprint(keys, at);
    const known = this.#places[place] as number;
    this.#places[place] = (known & 0x7fffffff) === mark ? (mark | 0x80000000) >>> 0 : mark;
  }

  /** Whether two uses were noted, as far as is remembered. */
  isSeenTwice(keys: Uint32Array, at = 0): boolean {
    return (this.#places[this.#place(keys, at)] as number) === (fingerprint(keys, at) | 0x80000000) >>> 0;
  }

  #place(keys: Uint32Array, at: number): number {
    return (keys[at + KEY_WORDS - 1] as number) & (this.#places.length - 1);
  }
}

function fingerprint(keys: Uint32Array, at: number): number {
  return (keys[at] as number) & 0x7fffffff || 1;
}
