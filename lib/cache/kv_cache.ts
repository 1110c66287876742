/**
 * The paged KV cache: sequences of tokens over shared pages, one pool and one page table per layer group. It decides which page holds
 * which tokens and never touches keys or values: kernels write them through slot mappings, and whole pages move through a PageStore.
 *
 * A cache belongs to one stream. A freed page may be reused at once, because work that still reads it comes earlier in that stream.
 * Everything here is bookkeeping and returns at once; CacheTiers moves the pages of suspended sequences to other memory and back.
 */
import { KvasirError } from "../errors.js";
import { checkInteger } from "../options.js";
import { type CacheStats, cacheStats } from "./cache_stats.js";
import { checkCache } from "./integrity.js";
import { identityFormat, type LayerGroup, type PageFormat } from "./page_format.js";
import { NONE, PagePool, type PolicyFactory } from "./page_pool.js";
import type { PageStore } from "./page_store.js";
import { PageTable } from "./page_table.js";
import { extendRow, freeUp, pagesNeeded } from "./reservation.js";
import { type Arrival, RETURNING, Rows, RUNNING, SPREAD, SUSPENDED } from "./rows.js";
import { type SealedListener, sealRow } from "./sealing.js";
import { Sequence } from "./sequence.js";
import { KEY_WORDS } from "./tier_driver.js";
import { TokenLog } from "./token_log.js";

export interface KvCacheOptions {
  groups: readonly LayerGroup[];
  /** Tokens per page, default 64. */
  pageSize?: number | undefined;
  /** Pages of each group's device pool. */
  maxPages: number;
  /** Pages of each group's host pool, default none. */
  hostPages?: number | undefined;
  /** Pages that only keyed tiers hold while a sequence refers to them, default none. */
  farPages?: number | undefined;
  /** Whether keys are stored after RoPE, default true. */
  storeRotated?: boolean | undefined;
  /** Order of eviction of the device pool and of the host pool, default LRU. */
  policies?: readonly PolicyFactory[] | undefined;
}

/** One layer group: what a page is, the pages, and which row has which. */
export interface CacheGroup {
  readonly layers: LayerGroup;
  readonly format: PageFormat;
  readonly pool: PagePool;
  readonly table: PageTable;
}

export class KvCache {
  readonly pageSize: number;
  readonly groups: readonly CacheGroup[];
  /** Told of every page that is sealed. Pages are sealed, and outlive their sequences, only where somebody listens. */
  onSealed: SealedListener | undefined;
  readonly #store: PageStore;
  readonly #rows: Rows = new Rows();
  /** Pages of each group that something beside the tables refers to: pins, and prefixes that are being claimed. */
  readonly #holders: Set<readonly (readonly number[])[]> = new Set();

  constructor(options: KvCacheOptions, store: PageStore) {
    this.pageSize = options.pageSize ?? 64;
    this.#store = store;
    const { maxPages, hostPages = 0, farPages = 0, policies } = options;
    const slots = hostPages > 0 ? [maxPages, hostPages] : [maxPages];
    this.groups = options.groups.map((layers, index) => ({
      layers,
      format: identityFormat(layers, this.pageSize, options.storeRotated ?? true),
      pool: new PagePool({ slots, pages: maxPages + hostPages + farPages, pageSize: this.pageSize, policies }),
      table: new PageTable(index, store, 0, 2 * maxPages),
    }));
  }

  /** An empty sequence. `root` is the key before its first page: sequences share pages only with those of the same root. */
  createSequence(root: Uint32Array = new Uint32Array(KEY_WORDS)): Sequence {
    return new Sequence(this, this.#takeRow(new TokenLog(root, this.pageSize)));
  }

  /** The row of one of this cache's sequences. @throws ERR_KVASIR_DISPOSED, ERR_KVASIR_INVALID_ARGUMENT */
  rowOf(sequence: Sequence): number {
    if (sequence.cache !== this) throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", "sequence belongs to another cache");
    return sequence.row;
  }

  length(row: number): number {
    const length = this.#rows.lengths[row];
    if (length === undefined || length < 0)
      throw new KvasirError("ERR_KVASIR_DISPOSED", "Sequence was disposed; create or fork another");
    return length;
  }

  /**
   * Makes room for `tokens` more tokens in each row: new pages, and a private copy of a shared tail page. All or nothing. Pages that no
   * running sequence has and that cost no copy to let go make way. `isHybrid`: rows may be spread, for nobody goes by their slots.
   * @throws ERR_KVASIR_OUT_OF_PAGES, ERR_KVASIR_INVALID_ARGUMENT, and then nothing has changed.
   */
  reserve(rows: readonly number[], tokens: readonly number[], isHybrid = false): void {
    for (const count of tokens) checkInteger("tokens", count, 0);
    if (new Set(rows).size !== rows.length) {
      throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", "a sequence appears twice; join its tokens, or fork it");
    }
    for (const row of rows) if (!(isHybrid && this.isSpread(row))) this.#checkRunning(row);
    this.groups.forEach((group, index) => {
      const need = pagesNeeded(group, this.#rows, this.pageSize, rows, tokens);
      const numFree = freeUp(group.pool, need);
      if (need <= numFree) return;
      const where = this.groups.length > 1 ? ` in group ${index}` : "";
      throw new KvasirError(
        "ERR_KVASIR_OUT_OF_PAGES",
        `Need ${need} ${need === 1 ? "page" : "pages"}${where} but only ${numFree} of ${group.pool.numSlots(0)} are free; dispose or truncate a sequence, or raise maxPages`,
      );
    });
    for (const group of this.groups) {
      rows.forEach((row, i) => {
        group.table.ensure(row, this.#pagesFor(this.length(row) + (tokens[i] as number)));
      });
    }
    this.groups.forEach((group, index) => {
      rows.forEach((row, i) => {
        extendRow(group, index, this.#store, this.#rows, this.pageSize, row, tokens[i] as number);
      });
    });
  }

  /** Free pages that `reserve` would take, of the layer group that needs most. */
  pagesToReserve(rows: readonly number[], tokens: readonly number[]): number {
    return Math.max(0, ...this.groups.map((group) => pagesNeeded(group, this.#rows, this.pageSize, rows, tokens)));
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
    this.#rows.lengths[row] = length;
  }

  /** Tells which tokens the row has from `position` on; they may be ahead of what is committed. Full pages are sealed. */
  noteTokens(row: number, position: number, tokens: ArrayLike<number>): void {
    if (this.onSealed === undefined) return;
    this.log(row).write(position, tokens);
    if (this.#rows.states[row] === RUNNING) sealRow(this.groups, this.#rows, row, this.pageSize, this.onSealed);
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
      if (visible < keep && group.table.page(row, visible) === NONE) {
        throw new KvasirError(
          "ERR_KVASIR_INVALID_ARGUMENT",
          `truncate to ${length} tokens, but pages that its window needs were released; start again from a fork`,
        );
      }
    }
    this.cut(row, length);
  }

  /** `truncate` that asks nothing: what is left may lack pages that a window needs. */
  cut(row: number, length: number): void {
    const keep = this.#pagesFor(length);
    for (const group of this.groups) this.#releaseFrom(group, row, keep);
    this.#rows.lengths[row] = length;
    this.#rows.sealed[row] = Math.min(this.#rows.sealed[row] as number, Math.floor(length / this.pageSize));
    if (length === 0) this.#rows.arrivals[row] = undefined;
    this.log(row).truncate(length);
  }

  /** Cuts a row whose pages from `length` on are lost; to nothing, where a window needs pages before that were released. */
  cutLost(row: number, length: number): void {
    const isHole = (group: CacheGroup): boolean => {
      const visible = this.#windowEntry(group, length);
      return visible < this.#pagesFor(length) && group.table.page(row, visible) === NONE;
    };
    this.cut(row, this.groups.some(isHole) ? 0 : length);
  }

  /** A sequence with the same tokens. Pages are shared; whoever first writes into a shared tail page gets a copy of it. */
  fork(row: number): Sequence {
    const length = this.length(row);
    const isUse = this.#rows.states[row] === RUNNING; // a row that is on its way back brings nobody along
    const entries = this.#pagesFor(length);
    const child = this.#takeRow(this.log(row).clone(length));
    try {
      for (const { table } of this.groups) table.ensure(child, entries);
    } catch (error) {
      this.free(child);
      throw error;
    }
    for (const { table, pool } of this.groups) {
      table.copyRow(row, child, entries);
      pool.retainAll(table.pages(child), isUse);
    }
    this.#rows.lengths[child] = length;
    this.#rows.sealed[child] = Math.min(this.#rows.sealed[row] as number, Math.floor(length / this.pageSize));
    this.#rows.states[child] = isUse ? RUNNING : SUSPENDED;
    this.#rows.arrivals[child] = this.#rows.arrivals[row];
    return new Sequence(this, child);
  }

  /** Frees the row and whatever only it refers to, the tail first. Sealed pages stay findable until their room is needed. */
  free(row: number): void {
    this.length(row);
    for (const group of this.groups) {
      this.#releaseFrom(group, row, 0);
      group.table.clear(row);
    }
    this.#rows.give(row);
  }

  /** Releases pages of window groups that no later token of the row can see. Returns how many references were dropped. */
  releaseBehindWindow(row: number): number {
    const length = this.length(row);
    const isUse = this.#rows.isUsing(row);
    let released = 0;
    for (const group of this.groups) {
      for (let entry = this.#windowEntry(group, length) - 1; entry >= 0; entry--) {
        const page = group.table.page(row, entry);
        if (page === NONE) break;
        group.pool.release(page, isUse);
        group.table.markReleased(row, entry);
        released++;
      }
    }
    return released;
  }

  /** `slot * page_size + offset` of the row's tokens [from, from + count), into `out` at `at`. */
  slotMapping(groupIndex: number, row: number, from: number, count: number, out: Int32Array, at: number): void {
    const { table } = this.groups[groupIndex] as CacheGroup;
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

  // ---- what the tiers need

  /** What the host knows of the row's tokens. */
  log(row: number): TokenLog {
    this.length(row);
    return this.#rows.logs[row] as TokenLog;
  }

  /** The row's pages in a group, NONE for those that left the window; valid until the next change. */
  rowPages(group: number, row: number): Int32Array {
    return (this.groups[group] as CacheGroup).table.pages(row);
  }

  isRunning(row: number): boolean {
    return this.#rows.states[row] === RUNNING;
  }

  isSuspended(row: number): boolean {
    return this.#rows.states[row] === SUSPENDED;
  }

  isSpread(row: number): boolean {
    return this.#rows.states[row] === SPREAD;
  }

  /** Whether some row runs with pages where they lie, in the host pool too. */
  get hasSpread(): boolean {
    return this.#rows.states.includes(SPREAD);
  }

  /** The row does not run any more: its pages may leave the device. Reserved pages are given back. A no-op the second time. */
  suspend(row: number): void {
    const keep = this.#pagesFor(this.length(row));
    if (this.#rows.states[row] === SUSPENDED) return;
    for (const group of this.groups) {
      this.#releaseFrom(group, row, keep);
      const pages = group.table.pages(row);
      for (let entry = pages.length - 1; entry >= 0; entry--) {
        const page = pages[entry] as number;
        if (page !== NONE) group.pool.unuse(page);
      }
    }
    this.#rows.states[row] = SUSPENDED;
  }

  /** The row runs again, as far as its pages are concerned; `refreshSlots` follows once they are all on the device. */
  unsuspend(row: number): void {
    this.length(row);
    if (this.#rows.states[row] !== SUSPENDED) return;
    for (const { pool, table } of this.groups) {
      for (const page of table.pages(row)) if (page !== NONE) pool.use(page);
    }
    this.#rows.states[row] = RETURNING;
  }

  /** The returning row runs with its pages where they lie, the last one on the device; `suspend` ends it, or `refreshSlots`. */
  spread(row: number): void {
    this.#rows.states[row] = SPREAD;
  }

  /**
   * Writes where the row's pages lie now into its table: it runs again. Pages that are still on their way come with an arrival: until it is
   * told that they have come, none of the row's pages is sealed.
   */
  refreshSlots(row: number, arrival?: Arrival): void {
    for (const { pool, table } of this.groups) table.refresh(row, (page) => pool.slot(page));
    this.#rows.states[row] = RUNNING;
    if (arrival !== undefined) this.#rows.arrivals[row] = arrival;
    sealRow(this.groups, this.#rows, row, this.pageSize, this.onSealed);
  }

  /** What the row's pages wait for, absent where they have certainly come. */
  arrival(row: number): Arrival | undefined {
    return this.#rows.isCertain(row) ? undefined : this.#rows.arrivals[row];
  }

  /** Gives an empty row the pages of a prefix, equally many in each group, with the references that their finder holds; it is suspended. */
  adoptPages(row: number, pages: readonly (readonly number[])[], tokens: Int32Array, keys: Uint32Array): void {
    const count = (pages[0] as readonly number[]).length;
    for (const { table } of this.groups) table.ensure(row, count);
    this.groups.forEach(({ table }, group) => {
      for (const page of pages[group] as readonly number[]) table.push(row, page, NONE);
    });
    this.#rows.lengths[row] = count * this.pageSize;
    this.#rows.sealed[row] = count;
    this.#rows.states[row] = SUSPENDED;
    const log = this.log(row);
    log.write(0, tokens.subarray(0, count * this.pageSize));
    log.giveKeys(keys);
  }

  /** Counts references that are in no table as rightful, until told otherwise; see `checkIntegrity`. */
  holdElsewhere(pages: readonly (readonly number[])[]): void {
    this.#holders.add(pages);
  }

  letGoElsewhere(pages: readonly (readonly number[])[]): void {
    this.#holders.delete(pages);
  }

  /** Keeps the row's present pages alive, wherever they lie, until disposed. */
  pin(row: number): Disposable {
    this.length(row);
    const pages = this.groups.map(({ table, pool }) => {
      const held = [...table.pages(row)].filter((page) => page !== NONE);
      for (const page of held) pool.retain(page, false);
      return held;
    });
    this.holdElsewhere(pages);
    return {
      [Symbol.dispose]: () => {
        this.letGoElsewhere(pages);
        this.groups.forEach(({ pool }, group) => {
          for (const page of (pages[group] as number[]).splice(0).reverse()) pool.release(page, false);
        });
      },
    };
  }

  /** What the cache holds, counted; bytes as the allocator measures them. */
  stats(): CacheStats {
    return cacheStats(this.groups, this.#rows.lengths, this.pageSize, this.#store);
  }

  /** Recounts every page, reference and table entry. @throws ERR_KVASIR_INTERNAL with all that is wrong. */
  checkIntegrity(): void {
    checkCache(this.groups, this.#rows, this.#holders, this.pageSize);
  }

  #pagesFor(length: number): number {
    return Math.ceil(length / this.pageSize);
  }

  #checkRunning(row: number): void {
    this.length(row);
    if (this.#rows.states[row] === RUNNING) return;
    const what = this.isSpread(row) ? "decodes in hybrid form" : "is suspended";
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `sequence ${what}; resume it before tokens are added`);
  }

  /** First entry that the token at position `length`, or a later one, may see. */
  #windowEntry(group: CacheGroup, length: number): number {
    const { window } = group.layers;
    return window === undefined ? 0 : Math.floor(Math.max(0, length - (window - 1)) / this.pageSize);
  }

  #releaseFrom({ table, pool }: CacheGroup, row: number, keep: number): void {
    const isUse = this.#rows.isUsing(row);
    pool.releaseAll(table.pages(row).subarray(keep), isUse);
    table.shorten(row, Math.min(keep, table.rowLength(row)));
  }

  #takeRow(log: TokenLog): number {
    return this.#rows.take(log, (rows) => {
      for (const { table } of this.groups) table.growRows(rows);
    });
  }
}
