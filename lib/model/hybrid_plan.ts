/**
 * Who attends to the pages that lie in host memory, decided for each step of a hybrid decode from measured rates: the CPU reads some of them
 * where they lie, the others are streamed to the device, chunk by chunk. Pure arithmetic, so that it is tested without a device.
 */

/** What was measured; bytes are those of one layer. */
export interface HybridRates {
  /** At which the CPU attends to pages, while the link is busy too. */
  cpuBytesPerUs: number;
  /** At which pages come to the device, while the CPU reads too. */
  linkBytesPerUs: number;
  /** Of a layer, from where the CPU's result is merged until the next layer's query is there: the CPU has nothing to do meanwhile. */
  serialUs: number;
}

/** What one step measured; a figure may be missing. */
export type MeasuredRates = { [name in keyof HybridRates]?: number | undefined };

/** What is assumed before the first measurement: a server's memory and PCIe 5. */
export const firstRates: Readonly<HybridRates> = { cpuBytesPerUs: 60_000, linkBytesPerUs: 40_000, serialUs: 150 };

/**
 * Of `pages` pages with `layerBytes` bytes a layer, how many the CPU should read, so that it and the link are done at the same time. The
 * link streams ahead and never pauses; the CPU waits for each layer's query:
 *
 *   serialUs + cpuBytes / cpuRate = linkBytes / linkRate,   cpuBytes + linkBytes = pages * layerBytes
 *
 * Each side keeps a 64th of the pages, one at least where there are two: a side without work has no rate to be measured, and one with
 * very little has the wrong one.
 */
export function cpuPagesFor(pages: number, layerBytes: number, rates: HybridRates): number {
  const bytes = pages * layerBytes;
  const cpuBytes = (bytes / rates.linkBytesPerUs - rates.serialUs) / (1 / rates.cpuBytesPerUs + 1 / rates.linkBytesPerUs);
  const wanted = Math.round(cpuBytes / layerBytes);
  const least = leastPages(pages);
  return Math.max(least, Math.min(pages - least, wanted));
}

/** Pages that either side keeps. */
export const leastPages = (pages: number): number => (pages >= 2 ? Math.max(1, Math.floor(pages / 64)) : 0);

/** Averages in which older measurements count less and less; the first one counts alone. */
export class RateMeter {
  readonly #weight: number;
  readonly #seen: Set<keyof HybridRates> = new Set();
  #rates: HybridRates;

  constructor(first: Readonly<HybridRates> = firstRates, weight = 0.3) {
    this.#rates = { ...first };
    this.#weight = weight;
  }

  get rates(): Readonly<HybridRates> {
    return this.#rates;
  }

  /** Takes in what one step measured; a figure that is missing or no rate changes nothing. */
  add(measured: MeasuredRates): void {
    for (const name of ["cpuBytesPerUs", "linkBytesPerUs", "serialUs"] as const) {
      const value = measured[name];
      if (value === undefined || !Number.isFinite(value) || value < 0 || (value === 0 && name !== "serialUs")) continue;
      const before = this.#rates[name];
      this.#rates[name] = this.#seen.has(name) ? before + this.#weight * (value - before) : value;
      this.#seen.add(name);
    }
  }
}

/** Pages of the batch's rows, one row's after another's. */
export interface RowPages {
  slots: Int32Array;
  /** [rows] where each row's begin in `slots`, and how many it has. */
  firsts: Int32Array;
  counts: Int32Array;
}

export interface HybridShares {
  /** What the CPU reads. */
  cpu: RowPages;
  /** What is streamed, at most `chunkPages` pages at a time. */
  chunks: readonly RowPages[];
  streamedPages: number;
}

/** The first `cpuPages` of all rows' pages for the CPU, the rest in chunks; `hostSlots` by row, `rows` at least as many. */
export function sharePages(hostSlots: readonly Int32Array[], rows: number, cpuPages: number, chunkPages: number): HybridShares {
  const total = hostSlots.reduce((sum, { length }) => sum + length, 0);
  const chunks: RowPages[] = [];
  for (let from = cpuPages; from < total; from += chunkPages)
    chunks.push(pagesBetween(hostSlots, rows, from, Math.min(total, from + chunkPages)));
  return { cpu: pagesBetween(hostSlots, rows, 0, cpuPages), chunks, streamedPages: total - cpuPages };
}

/** Pages [from, to) of all rows' in a line. */
function pagesBetween(hostSlots: readonly Int32Array[], rows: number, from: number, to: number): RowPages {
  const slots = new Int32Array(to - from);
  const [firsts, counts] = [new Int32Array(rows), new Int32Array(rows)];
  let begin = 0;
  let used = 0;
  hostSlots.forEach((own, row) => {
    const part = own.subarray(Math.max(0, from - begin), Math.max(0, Math.min(own.length, to - begin)));
    slots.set(part, used);
    firsts[row] = used;
    counts[row] = part.length;
    used += part.length;
    begin += own.length;
  });
  return { slots, firsts, counts };
}
