/** Page tables made from host lists, checked before they reach a kernel. */
import type { Device } from "../device.js";
import { KvasirError } from "../errors.js";
import { checkInteger, checkOptions, describe } from "../options.js";
import type { StreamOption, Tensor } from "../tensor.js";

export interface PageTableOptions {
  /** Page slots of each row, in the order of their tokens. */
  rows: readonly (readonly number[])[];
  /** Tokens of each row; it needs ceil(kvLen / pageSize) pages or more. */
  kvLens: readonly number[];
  /** Tokens a page, a multiple of 16 from 16 to 256. */
  pageSize: number;
  /** Slots of the pool: every index lies in [0, numPages). */
  numPages: number;
  /** Position of each entry's first token, shaped as `rows`. */
  pageStart?: readonly (readonly number[])[] | undefined;
  /** Valid tokens of each entry, shaped as `rows`, 0 to pageSize. */
  pageLen?: readonly (readonly number[])[] | undefined;
}

/**
 * The tensors that `attention` and `advance` take under the same names, all i32: spread it into their arguments. `dispose` drops them all.
 */
export class PageTable implements Disposable {
  constructor(
    readonly rowStart: Tensor,
    readonly kvLen: Tensor,
    readonly pageIndices: Tensor,
    readonly pageStart: Tensor | undefined,
    readonly pageLen: Tensor | undefined,
  ) {}

  dispose(): void {
    for (const tensor of [this.rowStart, this.kvLen, this.pageIndices, this.pageStart, this.pageLen]) tensor?.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * Uploads a page table whose every entry was checked.
 *
 * @throws ERR_KVASIR_PAGE_OUT_OF_RANGE for a page index outside [0, numPages); ERR_KVASIR_SHAPE for lists that do not fit one another;
 * ERR_KVASIR_INVALID_ARGUMENT for lengths, positions and sizes out of range
 *
 * @example
 * ```ts
 * import { createPageTable, openDevice } from "kvasir";
 *
 * using device = openDevice("cpu");
 * using table = createPageTable(device, { rows: [[3, 0], [1]], kvLens: [20, 7], pageSize: 16, numPages: 4 });
 * console.log(await table.pageIndices.read()); // Int32Array [3, 0, 1]
 * ```
 */
export function createPageTable(device: Device, options: PageTableOptions, streamOption?: StreamOption): PageTable {
  checkOptions("createPageTable", options, ["rows", "kvLens", "pageSize", "numPages", "pageStart", "pageLen"]);
  const { rows, kvLens, pageSize, numPages } = options;
  checkPageSize(pageSize);
  checkInteger("numPages", numPages, 1, 2 ** 31 - 1);
  if (kvLens.length !== rows.length || rows.length === 0) {
    throw new KvasirError(
      "ERR_KVASIR_SHAPE",
      `kvLens has ${kvLens.length} rows, expected ${Math.max(1, rows.length)}, from rows`,
    );
  }
  for (const [r, row] of rows.entries()) checkRow(row, r, kvLens[r] as number, pageSize, numPages);
  let count = 0;
  const firsts = rows.map((row) => {
    const first = count;
    count += row.length;
    return first;
  });
  const starts = options.pageStart && entries("pageStart", options.pageStart, rows, 2 ** 31 - 1);
  const lengths = options.pageLen && entries("pageLen", options.pageLen, rows, pageSize);
  const upload = (values: readonly number[]): Tensor => device.tensor("i32", [values.length], values, streamOption);
  return new PageTable(
    upload(firsts),
    upload(kvLens),
    upload(flatten(rows)),
    starts && upload(starts),
    lengths && upload(lengths),
  );
}

function checkPageSize(pageSize: number): void {
  if (Number.isInteger(pageSize) && pageSize >= 16 && pageSize <= 256 && pageSize % 16 === 0) return;
  throw new KvasirError(
    "ERR_KVASIR_INVALID_ARGUMENT",
    `pageSize is ${describe(pageSize)}, expected a multiple of 16 from 16 to 256`,
  );
}

function checkRow(row: readonly number[], r: number, kvLen: number, pageSize: number, numPages: number): void {
  checkInteger(`kvLens[${r}]`, kvLen, 0, 2 ** 31 - 1);
  const needed = Math.ceil(kvLen / pageSize);
  if (row.length < needed) {
    throw new KvasirError(
      "ERR_KVASIR_SHAPE",
      `rows[${r}] has ${row.length} pages, expected at least ${needed} for kvLens[${r}] = ${kvLen}`,
    );
  }
  row.forEach((page, e) => {
    if (Number.isInteger(page) && page >= 0 && page < numPages) return;
    throw new KvasirError(
      "ERR_KVASIR_PAGE_OUT_OF_RANGE",
      `rows[${r}][${e}] is page ${describe(page)}, expected 0 to ${numPages - 1}: the pool has ${numPages} pages`,
    );
  });
}

function entries(
  name: string,
  lists: readonly (readonly number[])[],
  rows: readonly (readonly number[])[],
  max: number,
): number[] {
  if (lists.length !== rows.length)
    throw new KvasirError("ERR_KVASIR_SHAPE", `${name} has ${lists.length} rows, expected ${rows.length}, from rows`);
  lists.forEach((list, r) => {
    const expected = (rows[r] as readonly number[]).length;
    if (list.length !== expected) {
      throw new KvasirError(
        "ERR_KVASIR_SHAPE",
        `${name}[${r}] has ${list.length} entries, expected ${expected}, from rows[${r}]`,
      );
    }
    list.forEach((value, e) => {
      checkInteger(`${name}[${r}][${e}]`, value, 0, max);
    });
  });
  return flatten(lists);
}

/** Without spreading: tables may have more entries than a call has arguments. */
function flatten(lists: readonly (readonly number[])[]): number[] {
  const all: number[] = [];
  for (const list of lists) for (const value of list) all.push(value);
  return all;
}
