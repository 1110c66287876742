/** What a cache holds, counted: pages per state from the pools, bytes from the store's allocator. */
import type { PageFormat } from "./page_format.js";
import type { PagePool, PageState } from "./page_pool.js";
import type { PageStore } from "./page_store.js";
import type { PageTable } from "./page_table.js";

export interface GroupStats {
  format: string;
  pageBytes: number;
  pages: Record<PageState, number>;
  /** Most pages in use at once. */
  peakPages: number;
  /** Bytes of the pool, as the allocator measures them. */
  poolBytes: number;
}

export interface CacheStats {
  sequences: number;
  /** Tokens of all sequences, shared ones counted once for each. */
  tokens: number;
  groups: GroupStats[];
  poolBytes: number;
  /** Bytes of the pages in use, now and at most. */
  usedBytes: number;
  peakBytes: number;
  /** Pool bytes that one token takes. */
  bytesPerToken: number;
  /** Bytes of the bookkeeping on the host, and of the page tables on the device. */
  metadataBytes: number;
  tableBytes: number;
}

interface GroupParts {
  format: PageFormat;
  pool: PagePool;
  table: PageTable;
}

export function cacheStats(parts: readonly GroupParts[], lengths: Int32Array, pageSize: number, store: PageStore): CacheStats {
  const groups = parts.map(({ format, pool }, index) => ({
    format: format.name,
    pageBytes: format.pageBytes,
    pages: pool.counts(),
    peakPages: pool.peakUsed,
    poolBytes: store.poolBytes(index),
  }));
  const sum = (value: (group: GroupStats, index: number) => number): number =>
    groups.reduce((total, group, i) => total + value(group, i), 0);
  const live = lengths.filter((length) => length >= 0);
  return {
    sequences: live.length,
    tokens: live.reduce((total, length) => total + length, 0),
    groups,
    poolBytes: sum((group) => group.poolBytes),
    usedBytes: sum((group, i) => (parts[i] as GroupParts).pool.usedSlots(0) * group.pageBytes),
    peakBytes: sum((group) => group.peakPages * group.pageBytes),
    bytesPerToken: sum((group, i) => group.poolBytes / ((parts[i] as GroupParts).pool.numSlots(0) * pageSize)),
    metadataBytes: parts.reduce((total, { pool, table }) => total + pool.metadataBytes + table.metadataBytes, lengths.byteLength),
    tableBytes: store.tableBytes(),
  };
}
