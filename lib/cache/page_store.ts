/**
 * Where pages and page tables live. The cache decides; a store carries out, in the order of the calls. The device store puts both into
 * tensors of one stream; tests use plain arrays.
 */
export interface PageStore {
  /** Bytes that group `group`'s pool takes, as its allocator measures it. */
  poolBytes(group: number): number;
  /** Bytes that the device side of the page tables takes. */
  tableBytes(): number;
  /** Copies a whole page from one slot of the group's pool to another. */
  copyPage(group: number, fromSlot: number, toSlot: number): void;
  /** Makes room for `entries` table entries; what the table held need not survive. */
  resizeTable(group: number, entries: number): void;
  /** Writes table entries from `start` on. The array belongs to the store from here on. */
  writeTable(group: number, start: number, slots: Int32Array): void;
}
