/** The buffer through which pages reach the client's thread, and the room in it. */
import type { StagedPages } from "../page_staging.js";
import type { Tensor } from "../tensor.js";
import type { ByteWindow } from "./byte_window.js";
import { KEY_WORDS, type PageBatch } from "./tier_driver.js";

/** Small pages share a range of the buffer, a copy and a message, up to so many bytes. */
const BUNDLE_BYTES = 4.5 * 2 ** 20;

/** Some pages of a batch with a place in the buffer. */
export interface Bundle {
  /** Which of the batch's pages. */
  readonly pages: readonly number[];
  readonly staged: StagedPages;
  /** The place stays taken until this is settled, too: a request that nobody waits for any more may still be under way. */
  readonly hold: (until: Promise<unknown>) => void;
}

export class RemoteStaging {
  readonly window: ByteWindow;
  readonly #buffer: Uint8Array;
  readonly #pools: readonly Tensor[];
  readonly #pageSize: number;
  readonly #fingerprint: Uint8Array;
  /** By group, header included. */
  readonly #bytes: readonly number[];

  constructor(
    window: ByteWindow,
    buffer: Uint8Array,
    pools: readonly Tensor[],
    pageSize: number,
    fingerprint: Uint8Array,
    bytes: readonly number[],
  ) {
    this.window = window;
    this.#buffer = buffer;
    this.#pools = pools;
    this.#pageSize = pageSize;
    this.#fingerprint = fingerprint;
    this.#bytes = bytes;
  }

  /** Bytes of a page with its header. */
  pageBytes(group: number): number {
    return this.#bytes[group] as number;
  }

  /**
   * Calls `work` for bundles of these pages, each when there is room for it; not any more once `signal` aborts. Throws the first error when
   * all have ended.
   */
  async each(
    batch: PageBatch,
    pages: readonly number[],
    signal: AbortSignal | undefined,
    work: (bundle: Bundle) => Promise<void>,
  ): Promise<void> {
    const length = Math.max(1, Math.floor(Math.min(BUNDLE_BYTES, this.window.capacity) / this.pageBytes(batch.group)));
    const bundles = Array.from({ length: Math.ceil(pages.length / length) }, (_, i) => pages.slice(i * length, (i + 1) * length));
    const results = await Promise.allSettled(bundles.map((some) => this.#one(batch, some, signal, work)));
    for (const result of results) if (result.status === "rejected") throw result.reason;
  }

  async #one(
    batch: PageBatch,
    pages: readonly number[],
    signal: AbortSignal | undefined,
    work: (bundle: Bundle) => Promise<void>,
  ): Promise<void> {
    const offset = await this.window.acquire(pages.length * this.pageBytes(batch.group), signal);
    if (offset === undefined) return;
    let held: Promise<unknown> = Promise.resolve();
    const hold = (until: Promise<unknown>): void => {
      held = until;
    };
    try {
      await work({ pages, staged: this.#staged(batch, pages, offset), hold });
    } finally {
      const release = (): void => this.window.release(offset);
      held.then(release, release);
    }
  }

  #staged(batch: PageBatch, pages: readonly number[], offset: number): StagedPages {
    const words = (from: Uint32Array): Uint32Array => gather(from, new Uint32Array(pages.length * KEY_WORDS), pages);
    return {
      pool: this.#pools[batch.group] as Tensor,
      slots: Int32Array.from(pages, (page) => batch.slots[page] as number),
      staging: this.#buffer,
      offsets: Float64Array.from(pages, (_, i) => offset + i * this.pageBytes(batch.group)),
      fingerprint: this.#fingerprint,
      group: batch.group,
      pageSize: this.#pageSize,
      keys: words(batch.keys),
      parents: words(batch.parents),
      tokens: gather(batch.tokens, new Int32Array(pages.length * this.#pageSize), pages),
    };
  }
}

/** Runs of some pages, one behind the other. */
function gather<T extends Uint32Array | Int32Array>(from: T, to: T, pages: readonly number[]): T {
  const run = to.length / Math.max(1, pages.length);
  for (const [i, page] of pages.entries()) to.set(from.subarray(page * run, (page + 1) * run), i * run);
  return to;
}
