/** Pages by the time at which they expire: a binary heap of page ids with their places in it. Its arrays are allocated on first use. */
import { NONE } from "./page_lists.js";

export class ExpiryHeap {
  readonly #numPages: number;
  /** Heap order: no page expires before its parent, which is at (place - 1) >> 1. */
  #heap: Int32Array = new Int32Array(0);
  /** The page's place in the heap, or NONE. */
  #places: Int32Array = new Int32Array(0);
  #times: Float64Array = new Float64Array(0);
  #size = 0;

  constructor(numPages: number) {
    this.#numPages = numPages;
  }

  get size(): number {
    return this.#size;
  }

  get metadataBytes(): number {
    return this.#heap.byteLength + this.#places.byteLength + this.#times.byteLength;
  }

  /** The page expires at `time`, in place of any time before. */
  set(page: number, time: number): void {
    if (this.#heap.length === 0) {
      this.#heap = new Int32Array(this.#numPages);
      this.#places = new Int32Array(this.#numPages).fill(NONE);
      this.#times = new Float64Array(this.#numPages);
    }
    this.#times[page] = time;
    const place = this.#places[page] as number;
    if (place === NONE) this.#put(page, this.#size++);
    this.#sift(this.#places[page] as number);
  }

  delete(page: number): void {
    const place = this.#places[page];
    if (place === undefined || place === NONE) return;
    this.#places[page] = NONE;
    const last = this.#heap[--this.#size] as number;
    if (last === page) return;
    this.#put(last, place);
    this.#sift(place);
  }

  /** Takes out a page that expired by `now`, or returns NONE. */
  popDue(now: number): number {
    const page = this.#size === 0 ? NONE : (this.#heap[0] as number);
    if (page === NONE || (this.#times[page] as number) > now) return NONE;
    this.delete(page);
    return page;
  }

  #put(page: number, place: number): void {
    this.#heap[place] = page;
    this.#places[page] = place;
  }

  /** Moves the page at `place` up or down until the order holds. */
  #sift(place: number): void {
    const page = this.#heap[place] as number;
    const time = this.#times[page] as number;
    let at = place;
    for (let up = (at - 1) >> 1; at > 0 && this.#timeAt(up) > time; up = (at - 1) >> 1) {
      this.#put(this.#heap[up] as number, at);
      at = up;
    }
    for (;;) {
      let down = 2 * at + 1;
      if (down + 1 < this.#size && this.#timeAt(down + 1) < this.#timeAt(down)) down++;
      if (down >= this.#size || this.#timeAt(down) >= time) break;
      this.#put(this.#heap[down] as number, at);
      at = down;
    }
    this.#put(page, at);
  }

  #timeAt(place: number): number {
    return this.#times[this.#heap[place] as number] as number;
  }
}
