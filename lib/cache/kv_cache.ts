/**
 * The paged KV cache: sequences of tokens over shared pages, one pool and one page table per layer group. It decides which page holds
 * which tokens and never touches keys or values: kernels write them through slot mappings, and whole pages move through a PageStore.
 *
 * A cache belongs to one stream. A freed page may be reused at once, because work that still reads it comes earlier in that stream.
 */
import { KvasirError } from "../errors.js";
import { checkInteger } from "../options.js";
import { type CacheStats, cacheStats } from "./cache_stats.js";
import { identityFormat, type LayerGroup, type PageFormat } from "./page_format.js";
import { PagePool } from "./page_pool.js";
import type { PageStore } from "./page_store.js";
import { PageTable, releasedEntry } from "./page_table.js";
import { Sequence } from "./sequence.js";

export interface KvCacheOptions {
  groups: readonly LayerGroup[];
  /** Tokens per page, default 64. */
  pageSize?: number;
  /** Pages of each group's pool. */
  maxPages: number;
  /** Whether keys are stored after RoPE, default true. */
  storeRotated?: boolean;
}

interface Group {
  layers: LayerGroup;
  format: PageFormat;
  pool: PagePool;
  table: PageTable;
}

export class KvCache {
  readonly pageSize: number;
  readonly groups: readonly Readonly<Group>[];
  readonly #store: PageStore;
  /** Tokens whose keys and values are in the row's pages, -1 for a free row. */
  #lengths: Int32Array = new Int32Array(0).fill(-1);
  readonly #freeRows: number[] = [];

  constructor(options: KvCacheOptions, store: PageStore) {
    this.pageSize = options.pageSize ?? 64;
    this.#store = store;
    this.groups = options.groups.map((layers, index) => ({
      layers,
      format: identityFormat(layers, this.pageSize, options.storeRotated ?? true),
      pool: new PagePool(options.maxPages),
      table: new PageTable(index, store, 0, 2 * options.maxPages),
    }));
  }

  /** An empty sequence. */
  createSequence(): Sequence {
    return new Sequence(this, this.#takeRow());
  }

  /** The row of one of this cache's sequences. @throws ERR_KVASIR_DISPOSED, ERR_KVASIR_INVALID_ARGUMENT */
  rowOf(sequence: Sequence): number {
    if (sequence.cache !== this) throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", "sequence belongs to another cache");
    return sequence.row;
  }

  length(row: number): number {
    const length = this.#lengths[row];
    if (length === undefined || length < 0)
      throw new KvasirError("ERR_KVASIR_DISPOSED", "Sequence was disposed; create or fork another");
    return length;
  }

  /**
   * Makes room for `tokens` more tokens in each row: new pages, and a private copy of a shared tail page. All or nothing.
   * @throws ERR_KVASIR_OUT_OF_PAGES, ERR_KVASIR_INVALID_ARGUMENT, and then nothing has changed.
   */
  reserve(rows: readonly number[], tokens: readonly number[]): void {
    for (const count of tokens) checkInteger("tokens", count, 0);
    if (new Set(rows).size !== rows.length) {
      throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", "a sequence appears twice; join its tokens, or fork it");
    }
    this.groups.forEach((group, index) => {
      const need = this.#pagesNeeded(group, rows, tokens);
      if (need > group.pool.numFree) {
        const where = this.groups.length > 1 ? ` in group ${index}` : "";
        throw new KvasirError(
          "ERR_KVASIR_OUT_OF_PAGES",
          `Need ${need} ${need === 1 ? "page" : "pages"}${where} but only ${group.pool.numFree} of ${group.pool.numPages} are free; dispose or truncate a sequence, or raise maxPages`,
        );
      }
    });
    for (const group of this.groups) {
      rows.forEach((row, i) => {
        group.table.ensure(row, this.#pagesFor(this.length(row) + (tokens[i] as number)));
      });
    }
    this.groups.forEach((group, index) => {
      rows.forEach((row, i) => {
        this.#extend(group, index, row, tokens[i] as number);
      });
    });
  }

  /** Free pages that `reserve` would take, of the layer group that needs most. */
  pagesToReserve(rows: readonly number[], tokens: readonly number[]): number {
    return Math.max(0, ...this.groups.map((group) => this.#pagesNeeded(group, rows, tokens)));
  }

  /** Counts `tokens` reserved tokens of the row as written. */
  commit(row: number, tokens: number): void {
    const length = this.length(row) + tokens;
    const pages = this.#pagesFor(length);
    if (this.groups.some((group) => group.table.rowLength(row) < pages)) {
      throw new KvasirError(
        "ERR_KVASIR_INVALID_ARGUMENT",
        `commit of ${tokens} tokens goes past what was reserved; reserve them first`,
      );
    }
    this.#lengths[row] = length;
  }

  /** Forgets the row's tokens from `length` on, and reserved pages with them. */
  truncate(row: number, length: number): void {
    const old = this.length(row);
    if (!Number.isInteger(length) || length < 0 || length > old) {
      throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `truncate to ${length} tokens, expected an integer from 0 to ${old}`);
    }
    const keep = this.#pagesFor(length);
    for (const group of this.groups) {
      const visible = this.#windowEntry(group, length);
      if (visible < keep && group.table.page(row, visible) === releasedEntry) {
        throw new KvasirError(
          "ERR_KVASIR_INVALID_ARGUMENT",
          `truncate to ${length} tokens, but pages that its window needs were released; start again from a fork`,
        );
      }
    }
    for (const { table, pool } of this.groups) {
      for (let entry = table.rowLength(row) - 1; entry >= keep; entry--) {
        const page = table.page(row, entry);
        if (page !== releasedEntry) pool.release(page);
      }
      table.shorten(row, keep);
    }
    this.#lengths[row] = length;
  }

  /** A sequence with the same tokens. Pages are shared; whoever first writes into a shared tail page gets a copy of it. */
  fork(row: number): Sequence {
    const length = this.length(row);
    const entries = this.#pagesFor(length);
    const child = this.#takeRow();
    try {
      for (const { table } of this.groups) table.ensure(child, entries);
    } catch (error) {
      this.free(child);
      throw error;
    }
    for (const { table, pool } of this.groups) {
      for (let entry = 0; entry < entries; entry++) {
        const page = table.page(row, entry);
        if (page !== releasedEntry) pool.retain(page);
        table.push(child, page, table.slot(row, entry));
      }
    }
    this.#lengths[child] = length;
    return new Sequence(this, child);
  }

  /** Frees the row and whatever only it refers to, the tail first. */
  free(row: number): void {
    this.length(row);
    for (const { table, pool } of this.groups) {
      for (let entry = table.rowLength(row) - 1; entry >= 0; entry--) {
        const page = table.page(row, entry);
        if (page !== releasedEntry) pool.release(page);
      }
      table.clear(row);
    }
    this.#lengths[row] = -1;
    this.#freeRows.push(row);
  }

  /** Releases pages of window groups that no later token of the row can see. Returns how many references were dropped. */
  releaseBehindWindow(row: number): number {
    const length = this.length(row);
    let released = 0;
    for (const group of this.groups) {
      for (let entry = this.#windowEntry(group, length) - 1; entry >= 0; entry--) {
        const page = group.table.page(row, entry);
        if (page === releasedEntry) break;
        group.pool.release(page);
        group.table.markReleased(row, entry);
        released++;
      }
    }
    return released;
  }

  /** `slot * page_size + offset` of the row's tokens [from, from + count), into `out` at `at`. */
  slotMapping(groupIndex: number, row: number, from: number, count: number, out: Int32Array, at: number): void {
    const { table } = this.groups[groupIndex] as Group;
    for (let i = 0; i < count; i++) {
      const position = from + i;
      const slot = table.slot(row, Math.floor(position / this.pageSize));
      out[at + i] = slot * this.pageSize + (position % this.pageSize);
    }
  }

  /** Sends changed page tables to the device; before any kernel that reads them. */
  flush(): void {
    for (const { table } of this.groups) table.flush();
  }

  /** What the cache holds, counted; bytes as the allocator measures them. */
  stats(): CacheStats {
    return cacheStats(this.groups, this.#lengths, this.pageSize, this.#store);
  }

  /** Recounts every page, reference and table entry. @throws ERR_KVASIR_INTERNAL with all that is wrong. */
  checkIntegrity(): void {
    const found: string[] = [];
    for (const { pool, table } of this.groups) {
      const references = new Int32Array(pool.numPages);
      const occupied = new Uint8Array(table.numEntries);
      this.#lengths.forEach((length, row) => {
        if (length < 0) return;
        found.push(...table.collect(row, references, occupied, (page) => pool.slot(page)));
        const entries = table.rowLength(row);
        if (entries < this.#pagesFor(length))
          found.push(`I9: row ${row} has ${length} tokens in ${entries} pages of ${this.pageSize}`);
      });
      found.push(...pool.problems(references));
    }
    if (found.length > 0) throw new KvasirError("ERR_KVASIR_INTERNAL", `Cache integrity: ${found.join("; ")}`);
  }

  #pagesFor(length: number): number {
    return Math.ceil(length / this.pageSize);
  }

  /** First entry that the token at position `length`, or a later one, may see. */
  #windowEntry(group: Group, length: number): number {
    const { window } = group.layers;
    return window === undefined ? 0 : Math.floor(Math.max(0, length - (window - 1)) / this.pageSize);
  }

  #pagesNeeded(group: Group, rows: readonly number[], tokens: readonly number[]): number {
    let need = 0;
    const writers = new Map<number, number>();
    rows.forEach((row, i) => {
      const length = this.length(row);
      const count = tokens[i] as number;
      need += Math.max(0, this.#pagesFor(length + count) - group.table.rowLength(row));
      const tail = this.#sharedTail(group, row, count);
      if (tail !== undefined) writers.set(tail, (writers.get(tail) ?? 0) + 1);
    });
    // When everyone who shares a page writes to it, the last one keeps the original.
    for (const [page, count] of writers) need += count < group.pool.refCount(page) ? count : count - 1;
    return need;
  }

  /** The partly filled page that the row would write into next, if others refer to it too. */
  #sharedTail(group: Group, row: number, tokens: number): number | undefined {
    const length = this.length(row);
    if (tokens === 0 || length % this.pageSize === 0) return undefined;
    const page = group.table.page(row, Math.floor(length / this.pageSize));
    return group.pool.refCount(page) > 1 ? page : undefined;
  }

  #extend(group: Group, index: number, row: number, tokens: number): void {
    const length = this.length(row);
    const { pool, table } = group;
    const shared = this.#sharedTail(group, row, tokens);
    if (shared !== undefined) {
      const copy = pool.take();
      const slot = pool.slot(copy) as number;
      this.#store.copyPage(index, pool.slot(shared) as number, slot);
      table.set(row, Math.floor(length / this.pageSize), copy, slot);
      pool.release(shared);
    }
    for (let have = table.rowLength(row); have < this.#pagesFor(length + tokens); have++) {
      const page = pool.take();
      table.push(row, page, pool.slot(page) as number);
    }
  }

  #takeRow(): number {
    let row = this.#freeRows.pop();
    if (row === undefined) {
      const rows = this.#lengths.length;
      const grown = new Int32Array(Math.max(16, 2 * rows)).fill(-1);
      grown.set(this.#lengths);
      for (const { table } of this.groups) table.growRows(grown.length);
      this.#lengths = grown;
      for (let free = grown.length - 1; free > rows; free--) this.#freeRows.push(free);
      row = rows;
    }
    this.#lengths[row] = 0;
    return row;
  }
}
