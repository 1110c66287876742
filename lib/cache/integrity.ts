/** A recount of a whole cache: every page, reference, table entry and sealed prefix. */
import { KvasirError } from "../errors.js";
import type { CacheGroup } from "./kv_cache.js";
import { NONE } from "./page_pool.js";
import { type Rows, RUNNING } from "./rows.js";

/** @throws ERR_KVASIR_INTERNAL with all that is wrong */
export function checkCache(
  groups: readonly CacheGroup[],
  rows: Rows,
  holders: Iterable<readonly (readonly number[])[]>,
  pageSize: number,
): void {
  const found: string[] = [];
  groups.forEach(({ pool, table }, group) => {
    const references = new Int32Array(pool.numPages);
    const uses = new Int32Array(pool.numPages);
    const occupied = new Uint8Array(table.numEntries);
    rows.lengths.forEach((length, row) => {
      if (length < 0) return;
      const slotOf = rows.states[row] === RUNNING ? (page: number) => pool.slot(page) : undefined;
      found.push(...table.collect(row, references, rows.isUsing(row) ? uses : undefined, occupied, slotOf));
      if (table.rowLength(row) < Math.ceil(length / pageSize))
        found.push(`I9: row ${row} has ${length} tokens in ${table.rowLength(row)} pages of ${pageSize}`);
      if ((rows.sealed[row] as number) * pageSize > length)
        found.push(`I9: row ${row} has ${rows.sealed[row]} sealed pages but ${length} tokens`);
    });
    for (const held of holders) {
      for (const page of held[group] ?? []) if (page !== NONE) references[page] = (references[page] as number) + 1;
    }
    found.push(...pool.problems(references, uses));
  });
  if (found.length > 0) throw new KvasirError("ERR_KVASIR_INTERNAL", `Cache integrity: ${found.join("; ")}`);
}
