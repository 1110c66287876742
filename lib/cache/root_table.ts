/**
 * Root keys of first pages (model, layout, tenant salt, extra keys). They are few, so a page keeps a small id in place of 16 bytes; a root
 * is forgotten with the last page that starts from it.
 */
import { KEY_WORDS } from "./tier_driver.js";

export class RootTable {
  #words: Uint32Array = new Uint32Array(16 * KEY_WORDS);
  #pages: Int32Array = new Int32Array(16);
  readonly #ids: Map<string, number> = new Map();
  readonly #free: number[] = [];
  #used = 0;

  get metadataBytes(): number {
    return this.#words.byteLength + this.#pages.byteLength;
  }

  /** Roots in use. */
  get size(): number {
    return this.#ids.size;
  }

  /** The id of a root, with one more page that starts from it. */
  acquire(root: Uint32Array): number {
    const name = nameOf(root, 0);
    let id = this.#ids.get(name);
    if (id === undefined) {
      id = this.#free.pop() ?? this.#used++;
      if (id === this.#pages.length) this.#grow();
      this.#words.set(root.subarray(0, KEY_WORDS), id * KEY_WORDS);
      this.#ids.set(name, id);
    }
    this.#pages[id] = (this.#pages[id] as number) + 1;
    return id;
  }

  /** One page fewer starts from the root. */
  release(id: number): void {
    const pages = (this.#pages[id] as number) - 1;
    this.#pages[id] = pages;
    if (pages > 0) return;
    this.#ids.delete(nameOf(this.#words, id * KEY_WORDS));
    this.#free.push(id);
  }

  equals(id: number, root: Uint32Array): boolean {
    for (let i = 0; i < KEY_WORDS; i++) if (this.#words[id * KEY_WORDS + i] !== root[i]) return false;
    return true;
  }

  copyTo(id: number, out: Uint32Array, at: number): void {
    for (let i = 0; i < KEY_WORDS; i++) out[at + i] = this.#words[id * KEY_WORDS + i] as number;
  }

  /** Pages that start from the root. */
  pages(id: number): number {
    return this.#pages[id] ?? 0;
  }

  #grow(): void {
    const words = new Uint32Array(2 * this.#words.length);
    words.set(this.#words);
    const pages = new Int32Array(2 * this.#pages.length);
    pages.set(this.#pages);
    this.#words = words;
    this.#pages = pages;
  }
}

const nameOf = (words: Uint32Array, at: number): string => words.subarray(at, at + KEY_WORDS).join();
