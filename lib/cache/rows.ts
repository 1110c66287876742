/** The rows of a cache's tables: one for each live sequence, with what is known of it beside its pages. Rows are reused. */
import type { TokenLog } from "./token_log.js";

/** Its pages are on the device, and its slots say where. */
export const RUNNING = 0;
/** Its pages may be anywhere, and its slots are stale. */
export const SUSPENDED = 1;
/** Its pages are kept on the device, or on their way there; its slots are stale. */
export const RETURNING = 2;
/** Its pages are kept where they lie, on the device and in the host pool; its slots are stale, but for those of pages it took since. */
export const SPREAD = 3;

/**
 * Whether the pages that a row was given back have come. Until they have, what is computed from them is not certain, and nobody else may
 * find it; forks share the doubt. Where they did not come it stays.
 */
export class Arrival {
  /** Whether they came, those of earlier arrivals of the row too; resolves when it is known. */
  readonly over: Promise<boolean>;
  #own: "open" | "came" | "lost" = "open";
  #tell!: (hasCome: boolean) => void;
  readonly #before: Arrival | undefined;

  constructor(before?: Arrival) {
    this.#before = before?.isCertain === true ? undefined : before;
    const own = new Promise<boolean>((resolve) => {
      this.#tell = resolve;
    });
    this.over = Promise.all([own, this.#before?.over ?? true]).then(([hasCome, hadCome]) => hasCome && hadCome);
  }

  get isCertain(): boolean {
    return this.#own === "came" && this.#before?.isCertain !== false;
  }

  tell(hasCome: boolean): void {
    this.#own = hasCome ? "came" : "lost";
    this.#tell(hasCome);
  }
}

export class Rows {
  /** Tokens whose keys and values are in the row's pages, -1 for a free row. */
  lengths: Int32Array = new Int32Array(0);
  /** Leading pages that are sealed. */
  sealed: Int32Array = new Int32Array(0);
  /** RUNNING, SUSPENDED, RETURNING or SPREAD. */
  states: Uint8Array = new Uint8Array(0);
  readonly logs: (TokenLog | undefined)[] = [];
  /** Absent where all pages are certainly there. */
  readonly arrivals: (Arrival | undefined)[] = [];
  readonly #free: number[] = [];

  /** A row of no tokens; `grow` is told first where there must be more rows. */
  take(log: TokenLog, grow: (rows: number) => void): number {
    let row = this.#free.pop();
    if (row === undefined) {
      row = this.lengths.length;
      const rows = Math.max(16, 2 * row);
      grow(rows);
      this.lengths = extended(this.lengths, new Int32Array(rows).fill(-1));
      this.sealed = extended(this.sealed, new Int32Array(rows));
      this.states = extended(this.states, new Uint8Array(rows));
      for (let free = rows - 1; free > row; free--) this.#free.push(free);
    }
    this.lengths[row] = 0;
    this.sealed[row] = 0;
    this.states[row] = RUNNING;
    this.logs[row] = log;
    this.arrivals[row] = undefined;
    return row;
  }

  /** Whether the row's references keep its pages on the device. */
  isUsing(row: number): boolean {
    return this.states[row] !== SUSPENDED;
  }

  /** Whether what the row's pages hold is certain, so that others may find it. */
  isCertain(row: number): boolean {
    const arrival = this.arrivals[row];
    if (arrival === undefined) return true;
    if (!arrival.isCertain) return false;
    this.arrivals[row] = undefined;
    return true;
  }

  give(row: number): void {
    this.lengths[row] = -1;
    this.states[row] = RUNNING;
    this.logs[row] = undefined;
    this.arrivals[row] = undefined;
    this.#free.push(row);
  }
}

function extended<T extends Int32Array | Uint8Array>(old: T, grown: T): T {
  grown.set(old);
  return grown;
}
