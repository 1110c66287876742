/** A PageStore over plain arrays: a page is `page_size` numbers, one for each token that it holds. */
import type { PageStore } from "../../lib/cache/page_store.js";

export class ArrayStore implements PageStore {
  readonly pages: Float64Array[][];
  readonly tables: Int32Array[];
  writes = 0;

  constructor(groups: number, maxPages: number, pageSize: number) {
    this.pages = Array.from({ length: groups }, () =>
      Array.from({ length: maxPages }, () => new Float64Array(pageSize).fill(Number.NaN)),
    );
    this.tables = Array.from({ length: groups }, () => new Int32Array(0));
  }

  poolBytes(group: number): number {
    return (this.pages[group] ?? []).reduce((sum, page) => sum + page.byteLength, 0);
  }

  tableBytes(): number {
    return this.tables.reduce((sum, table) => sum + table.byteLength, 0);
  }

  copyPage(group: number, fromSlot: number, toSlot: number): void {
    this.page(group, toSlot).set(this.page(group, fromSlot));
  }

  resizeTable(group: number, entries: number): void {
    this.tables[group] = new Int32Array(entries).fill(-7);
  }

  writeTable(group: number, start: number, slots: Int32Array): void {
    this.writes++;
    (this.tables[group] as Int32Array).set(slots, start);
  }

  page(group: number, slot: number): Float64Array {
    const page = this.pages[group]?.[slot];
    if (page === undefined) throw new RangeError(`no slot ${slot} in group ${group}`);
    return page;
  }
}
