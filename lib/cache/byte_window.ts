/**
 * Room in a staging buffer of fixed size: what is in flight to and from a store never exceeds it. Ranges are handed out first fit, and to
 * those who wait in the order in which they came, so that a large range is not overtaken for ever by small ones.
 */

interface Range {
  offset: number;
  bytes: number;
}

interface Waiter {
  bytes: number;
  take: (offset: number | undefined) => void;
}

/** Ranges begin and end at multiples of this, which keeps the free ranges few. */
const ALIGNMENT = 4096;

const rounded = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

export class ByteWindow {
  readonly capacity: number;
  /** By offset; no two touch. */
  readonly #free: Range[];
  readonly #taken: Map<number, number> = new Map();
  readonly #waiters: Waiter[] = [];
  #used = 0;
  #peak = 0;

  /** @param capacity bytes; a multiple of 4096 is used of it */
  constructor(capacity: number) {
    this.capacity = Math.floor(capacity / ALIGNMENT) * ALIGNMENT;
    this.#free = [{ offset: 0, bytes: this.capacity }];
  }

  /** Bytes taken now, rounded up per range, and the most that were taken at once. */
  get used(): number {
    return this.#used;
  }

  get peak(): number {
    return this.#peak;
  }

  /**
   * The offset of a range of at least `bytes`, in turn; undefined once `signal` aborts, and at once for more
   * bytes than the window has.
   */
  acquire(bytes: number, signal?: AbortSignal): Promise<number | undefined> {
    const wanted = rounded(bytes);
    if (wanted > this.capacity || signal?.aborted) return Promise.resolve(undefined);
    if (this.#waiters.length === 0) {
      const offset = this.#take(wanted);
      if (offset !== undefined) return Promise.resolve(offset);
    }
    return new Promise((resolve) => {
      const waiter: Waiter = { bytes: wanted, take: resolve };
      if (signal !== undefined) {
        const leave = (): void => {
          const place = this.#waiters.indexOf(waiter);
          if (place < 0) return;
          this.#waiters.splice(place, 1);
          resolve(undefined);
          this.#serve();
        };
        signal.addEventListener("abort", leave, { once: true });
        waiter.take = (offset) => {
          signal.removeEventListener("abort", leave);
          resolve(offset);
        };
      }
      this.#waiters.push(waiter);
    });
  }

  /** Gives the range at `offset` back. */
  release(offset: number): void {
    const bytes = this.#taken.get(offset);
    if (bytes === undefined) return;
    this.#taken.delete(offset);
    this.#used -= bytes;
    let at = this.#free.findIndex((range) => range.offset > offset);
    if (at < 0) at = this.#free.length;
    this.#free.splice(at, 0, { offset, bytes });
    this.#join(at);
    this.#join(at - 1);
    this.#serve();
  }

  #take(bytes: number): number | undefined {
    const at = this.#free.findIndex((range) => range.bytes >= bytes);
    const range = this.#free[at];
    if (range === undefined) return undefined;
    const { offset } = range;
    if (range.bytes === bytes) this.#free.splice(at, 1);
    else this.#free[at] = { offset: offset + bytes, bytes: range.bytes - bytes };
    this.#taken.set(offset, bytes);
    this.#used += bytes;
    this.#peak = Math.max(this.#peak, this.#used);
    return offset;
  }

  #serve(): void {
    for (let first = this.#waiters[0]; first !== undefined; first = this.#waiters[0]) {
      const offset = this.#take(first.bytes);
      if (offset === undefined) return;
      this.#waiters.shift();
      first.take(offset);
    }
  }

  /** Joins free range `at` with the one behind it where they touch. */
  #join(at: number): void {
    const range = this.#free[at];
    const next = this.#free[at + 1];
    if (range === undefined || next === undefined || range.offset + range.bytes !== next.offset) return;
    this.#free.splice(at, 2, { offset: range.offset, bytes: range.bytes + next.bytes });
  }
}
