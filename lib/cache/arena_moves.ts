/**
 * Copies of pages between the device pool and the host pool, with their books: while a copy is under way its pages carry a mark, so that
 * neither side is freed or evicted under it, whoever lets go of them meanwhile.
 *
 * A page counts as valid on the far side from the start of its copy: on the device because work there is held until the bytes arrive, on
 * the host because nobody looks there before the mark is gone. What makes it stale under way (a write into it, a failure) takes that back.
 */
import type { Move, MoveOutcome, PageMover } from "./page_mover.js";
import { MARK_IN, MARK_OUT, type PagePool } from "./page_pool.js";

export interface MoveCounters {
  /** Device to host and back. */
  outBytes: number;
  outPages: number;
  inBytes: number;
  inPages: number;
  failures: number;
}

export class ArenaMoves {
  readonly counters: MoveCounters = { outBytes: 0, outPages: 0, inBytes: 0, inPages: 0, failures: 0 };
  readonly #pools: readonly PagePool[];
  readonly #mover: PageMover;
  /** Moves to the device that are under way, by page: whoever shares the page waits for the same move. */
  readonly #incoming: Map<number, Move>[];
  /** Pages whose copy to the device failed: their slots there hold nothing. */
  readonly #stale: Set<number>[];
  readonly #running: Set<Promise<unknown>> = new Set();

  constructor(pools: readonly PagePool[], mover: PageMover) {
    this.#pools = pools;
    this.#mover = mover;
    this.#incoming = pools.map(() => new Map());
    this.#stale = pools.map(() => new Set());
  }

  /** Moves that are under way. */
  get pending(): number {
    return this.#running.size;
  }

  /** Resolves when one of the moves under way is over; where there is none, never. */
  next(): Promise<unknown> {
    return Promise.race(this.#running);
  }

  /** Resolves when no move is under way. */
  async idle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }

  /** Copies pages to the host slots that they have been given. Resolves with how it ended. */
  out(group: number, pages: readonly number[]): Promise<MoveOutcome> {
    const pool = this.#pools[group] as PagePool;
    const epochs = pages.map((page) => pool.mark(page, MARK_OUT));
    for (const page of pages) pool.setValid(page, 1, true);
    const end = (outcome: MoveOutcome): void =>
      pages.forEach((page, i) => {
        if (outcome !== "done") pool.setValid(page, 1, false);
        pool.unmark(page, MARK_OUT, epochs[i] as number);
      });
    let move: Move;
    try {
      move = this.#mover.toHost(group, slotsOf(pool, pages, 0), slotsOf(pool, pages, 1));
    } catch {
      this.counters.failures++; // a device that takes no more work: the pages stay where they are
      end("failed");
      return Promise.resolve("failed");
    }
    return this.#follow(move, (outcome) => {
      if (outcome === "done") {
        this.counters.outBytes += move.bytes;
        this.counters.outPages += pages.length;
      }
      end(outcome);
    });
  }

  /** Copies pages to the device slots that they have been given. @throws what the mover throws, and then nothing is under way */
  in(group: number, pages: readonly number[]): { move: Move; over: Promise<MoveOutcome> } {
    const pool = this.#pools[group] as PagePool;
    const incoming = this.#incoming[group] as Map<number, Move>;
    const epochs = pages.map((page) => pool.mark(page, MARK_IN));
    const end = (outcome: MoveOutcome): void =>
      pages.forEach((page, i) => {
        if (outcome !== "done") {
          pool.setValid(page, 0, false);
          this.#stale[group]?.add(page);
        }
        pool.unmark(page, MARK_IN, epochs[i] as number);
      });
    let move: Move;
    try {
      move = this.#mover.toDevice(group, slotsOf(pool, pages, 1), slotsOf(pool, pages, 0));
    } catch (error) {
      this.counters.failures++;
      end("failed");
      throw error;
    }
    for (const page of pages) {
      pool.setValid(page, 0, true);
      incoming.set(page, move);
    }
    const over = this.#follow(move, (outcome) => {
      if (outcome === "done") {
        this.counters.inBytes += move.bytes;
        this.counters.inPages += pages.length;
      }
      for (const page of pages) if (incoming.get(page) === move) incoming.delete(page);
      end(outcome);
    });
    return { move, over };
  }

  /** Frees device slots that hold nothing since a copy failed, as far as nobody runs with their pages any more. */
  dropStale(group: number): void {
    const pool = this.#pools[group] as PagePool;
    const stale = this.#stale[group] as Set<number>;
    for (const page of stale) {
      if (pool.useCount(page) > 0 && !pool.isValid(page, 0)) continue;
      stale.delete(page);
      if (!pool.isValid(page, 0) && pool.marks(page) === 0) pool.dropSlot(page, 0);
    }
  }

  /** The move that brings the page to the device now, if one does. */
  incoming(group: number, page: number): Move | undefined {
    return this.#incoming[group]?.get(page);
  }

  #follow(move: Move, end: (outcome: MoveOutcome) => void): Promise<MoveOutcome> {
    const over = move.settled.then((outcome) => {
      this.#running.delete(over);
      if (outcome === "failed") this.counters.failures++;
      end(outcome);
      return outcome;
    });
    this.#running.add(over);
    return over;
  }
}

function slotsOf(pool: PagePool, pages: readonly number[], arena: number): Int32Array {
  return Int32Array.from(pages, (page) => pool.slot(page, arena));
}
