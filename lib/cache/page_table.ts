/**
 * The page table of one layer group: per row (sequence) a run of entries `[rowStart, rowStart + length)` in one array, with slack behind
 * it, so that one sequence's growth moves nobody. Two host arrays run side by side: logical page ids, and the slots that kernels read,
 * which are mirrored on the device. Changed entries are noted per row and uploaded by `flush` in few writes.
 *
 * Runs have a power-of-two capacity and come from one free list per size. A row that outgrows its run moves to one of twice the size.
 */
import { NONE } from "./page_pool.js";
import type { PageStore } from "./page_store.js";

/** Entries of the smallest run. */
const minRun = 16;
/** Changed runs nearer than this go up in one write: a write costs more than carrying a few unchanged entries. */
const uploadGap = 1024;
export class PageTable {
  /** Changes when the device table is another one: recorded programs must be recorded again. */
  generation = 0;
  readonly #group: number;
  readonly #store: PageStore;
  #pages: Int32Array = new Int32Array(0);
  #slots: Int32Array = new Int32Array(0);
  #used = 0;
  #rowStart: Int32Array = new Int32Array(0);
  #rowLength: Int32Array = new Int32Array(0);
  #rowCapacity: Int32Array = new Int32Array(0);
  #dirtyFrom: Int32Array = new Int32Array(0);
  readonly #dirtyRows: Set<number> = new Set();
  readonly #freeRuns: Map<number, number[]> = new Map();

  constructor(group: number, store: PageStore, rows: number, entries: number) {
    this.#group = group;
    this.#store = store;
    this.growRows(rows);
    this.#resize(Math.max(minRun, entries));
  }

  get metadataBytes(): number {
    const arrays = [this.#pages, this.#slots, this.#rowStart, this.#rowLength, this.#rowCapacity, this.#dirtyFrom];
    return arrays.reduce((sum, array) => sum + array.byteLength, 0);
  }

  /** Index of the row's first entry. It changes when the row moves. */
  rowStart(row: number): number {
    return this.#rowStart[row] as number;
  }

  /** Entries of the row, released ones included. */
  rowLength(row: number): number {
    return this.#rowLength[row] as number;
  }

  page(row: number, entry: number): number {
    return this.#pages[this.rowStart(row) + entry] as number;
  }

  slot(row: number, entry: number): number {
    return this.#slots[this.rowStart(row) + entry] as number;
  }

  /** The row's pages, NONE where one has left the window (the slot beside it is stale); valid until the next change. */
  pages(row: number): Int32Array {
    const start = this.rowStart(row);
    return this.#pages.subarray(start, start + this.rowLength(row));
  }

  growRows(rows: number): void {
    const grow = (old: Int32Array): Int32Array => {
      const grown = new Int32Array(rows);
      grown.set(old);
      return grown;
    };
    this.#rowStart = grow(this.#rowStart);
    this.#rowLength = grow(this.#rowLength);
    this.#rowCapacity = grow(this.#rowCapacity);
    this.#dirtyFrom = grow(this.#dirtyFrom);
  }

  /** Makes room for `length` entries in the row, moving it if it must. Changes nothing that a kernel sees. */
  ensure(row: number, length: number): void {
    const oldCapacity = this.#rowCapacity[row] as number;
    if (length <= oldCapacity) return;
    let capacity = minRun;
    while (capacity < length) capacity *= 2;
    const start = this.#takeRun(capacity);
    const oldStart = this.rowStart(row);
    const used = this.rowLength(row);
    this.#pages.copyWithin(start, oldStart, oldStart + used);
    this.#slots.copyWithin(start, oldStart, oldStart + used);
    if (oldCapacity > 0) this.#giveRun(oldStart, oldCapacity);
    this.#rowStart[row] = start;
    this.#rowCapacity[row] = capacity;
    if (used > 0) this.#markDirty(row, 0);
  }

  /** Adds an entry at the end of the row; `ensure` came before. */
  push(row: number, page: number, slot: number): void {
    const length = this.rowLength(row);
    this.#rowLength[row] = length + 1;
    this.set(row, length, page, slot);
  }

  set(row: number, entry: number, page: number, slot: number): void {
    const index = this.rowStart(row) + entry;
    this.#pages[index] = page;
    this.#slots[index] = slot;
    this.#markDirty(row, entry);
  }

  /** Gives an empty row the first `entries` entries of another; `ensure` came before. */
  copyRow(from: number, to: number, entries: number): void {
    const [source, target] = [this.rowStart(from), this.rowStart(to)];
    this.#pages.copyWithin(target, source, source + entries);
    this.#slots.copyWithin(target, source, source + entries);
    this.#rowLength[to] = entries;
    if (entries > 0) this.#markDirty(to, 0);
  }

  /** Writes the slots anew, from where the row's pages lie now. */
  refresh(row: number, slotOf: (page: number) => number): void {
    const start = this.rowStart(row);
    for (let index = start; index < start + this.rowLength(row); index++) {
      const page = this.#pages[index] as number;
      if (page !== NONE) this.#slots[index] = slotOf(page);
    }
    if (this.rowLength(row) > 0) this.#markDirty(row, 0);
  }

  /** Forgets the page of an entry that left the window; its slot stays as it was, and no kernel may use what it reads there. */
  markReleased(row: number, entry: number): void {
    this.#pages[this.rowStart(row) + entry] = NONE;
  }

  /** Drops the row's entries from `length` on. */
  shorten(row: number, length: number): void {
    this.#rowLength[row] = length;
  }

  /** Gives the row's run back. */
  clear(row: number): void {
    const capacity = this.#rowCapacity[row] as number;
    if (capacity > 0) this.#giveRun(this.rowStart(row), capacity);
    this.#rowStart[row] = 0;
    this.#rowLength[row] = 0;
    this.#rowCapacity[row] = 0;
    this.#dirtyRows.delete(row);
  }

  /** Uploads what changed since the last call. */
  flush(): void {
    if (this.#dirtyRows.size === 0) return;
    const runs = [...this.#dirtyRows].map((row) => {
      const start = this.rowStart(row);
      return { from: start + (this.#dirtyFrom[row] as number), to: start + this.rowLength(row) };
    });
    this.#dirtyRows.clear();
    runs.sort((a, b) => a.from - b.from);
    let from = -1;
    let to = -1;
    for (const run of runs) {
      if (run.from >= run.to) continue;
      if (from >= 0 && run.from - to > uploadGap) {
        this.#store.writeTable(this.#group, from, this.#slots.slice(from, to));
        from = -1;
      }
      if (from < 0) from = run.from;
      to = run.to;
    }
    if (from >= 0) this.#store.writeTable(this.#group, from, this.#slots.slice(from, to));
  }

  /** Adds the row's references to `references[page]`, and to `uses`; returns what is wrong with the row's run, and with its slots. */
  collect(
    row: number,
    references: Int32Array,
    uses: Int32Array | undefined,
    occupied: Uint8Array,
    slotOf: ((page: number) => number) | undefined,
  ): string[] {
    const found: string[] = [];
    const start = this.rowStart(row);
    const capacity = this.#rowCapacity[row] as number;
    if (this.rowLength(row) > capacity) found.push(`I9: row ${row} has ${this.rowLength(row)} entries in a run of ${capacity}`);
    for (let entry = 0; entry < capacity; entry++) {
      if (occupied[start + entry]) found.push(`I9: row ${row} shares table entry ${start + entry} with another row`);
      occupied[start + entry] = 1;
    }
    for (let entry = 0; entry < this.rowLength(row); entry++) {
      const page = this.page(row, entry);
      if (page === NONE) continue;
      references[page] = (references[page] as number) + 1;
      if (uses !== undefined) uses[page] = (uses[page] as number) + 1;
      if (slotOf !== undefined && slotOf(page) !== this.slot(row, entry))
        found.push(`I9: row ${row} entry ${entry} says slot ${this.slot(row, entry)}, page ${page} is in ${slotOf(page)}`);
    }
    return found;
  }

  get numEntries(): number {
    return this.#slots.length;
  }

  #takeRun(capacity: number): number {
    const free = this.#freeRuns.get(capacity)?.pop();
    if (free !== undefined) return free;
    const start = this.#used;
    if (start + capacity > this.#slots.length) this.#resize(Math.max(2 * this.#slots.length, start + capacity));
    this.#used = start + capacity;
    return start;
  }

  #giveRun(start: number, capacity: number): void {
    const runs = this.#freeRuns.get(capacity);
    if (runs === undefined) this.#freeRuns.set(capacity, [start]);
    else runs.push(start);
  }

  #resize(entries: number): void {
    this.#store.resizeTable(this.#group, entries);
    this.generation++;
    for (const name of ["pages", "slots"] as const) {
      const grown = new Int32Array(entries);
      grown.set(name === "pages" ? this.#pages : this.#slots);
      if (name === "pages") this.#pages = grown;
      else this.#slots = grown;
    }
    if (this.#used > 0) this.#store.writeTable(this.#group, 0, this.#slots.slice(0, this.#used));
  }

  #markDirty(row: number, entry: number): void {
    if (!this.#dirtyRows.has(row)) {
      this.#dirtyRows.add(row);
      this.#dirtyFrom[row] = entry;
    } else if (entry < (this.#dirtyFrom[row] as number)) this.#dirtyFrom[row] = entry;
  }
}
