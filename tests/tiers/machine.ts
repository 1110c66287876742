/**
 * A machine over plain arrays: page memories, a compute stream that lags, and two copy lanes, one a direction. Nothing happens by itself:
 * whoever drives it decides which of the three goes on by how much, and a part that needs another one pulls it along. Copies read and write
 * as late as they are let, page by page, so that a slot that changes hands too early shows as wrong contents.
 */
import type { MoveOutcome } from "../../lib/cache/page_mover.js";
import { POISON } from "./content.js";

/** Slots of one group in one memory; a page is `pageSize` numbers. */
export class PageMemory {
  readonly words: Int32Array;
  readonly pageSize: number;

  constructor(slots: number, pageSize: number, fill: number) {
    this.words = new Int32Array(slots * pageSize).fill(fill);
    this.pageSize = pageSize;
  }

  copyPage(from: PageMemory, fromSlot: number, toSlot: number): void {
    const { pageSize } = this;
    for (let i = 0; i < pageSize; i++) this.words[toSlot * pageSize + i] = from.words[fromSlot * pageSize + i] as number;
  }

  fillPage(slot: number, value: number): void {
    this.words.fill(value, slot * this.pageSize, (slot + 1) * this.pageSize);
  }
}

/** A copy of pages between two memories, in a lane. */
export interface LaneMove {
  readonly from: PageMemory;
  readonly to: PageMemory;
  readonly fromSlots: Int32Array;
  readonly toSlots: Int32Array;
  /** It starts once the compute stream has done that much. */
  readonly after: number;
  copied: number;
  isCopied: boolean;
  outcome: MoveOutcome;
  settle(outcome: MoveOutcome): void;
}

/** Does one thing on the machine. */
export type Work = () => void;

export class Machine {
  /** Moves to host memory, and to the device. */
  readonly lanes: readonly [LaneMove[], LaneMove[]] = [[], []];
  /** The next copy of the lane fails. */
  readonly failNext: [boolean, boolean] = [false, false];
  readonly #work: (Work | undefined)[] = [];
  #head = 0;
  /** Pieces of work that the compute stream was given, and has done. */
  given = 0;
  done = 0;
  readonly #quiet: { until: number; resolve: () => void }[] = [];

  compute(work: Work): void {
    this.#work.push(work);
    this.given++;
  }

  /** Work that the compute stream is given from now on comes after the move's bytes. */
  wait(lane: 0 | 1, move: LaneMove): void {
    if (move.isCopied) return;
    this.compute(() => {
      while (!move.isCopied) this.stepLane(lane);
    });
  }

  /** Resolves when the compute stream has done what it was given so far. */
  quiet(): Promise<void> {
    if (this.done === this.given) return Promise.resolve();
    return new Promise((resolve) => this.#quiet.push({ until: this.given, resolve }));
  }

  get isIdle(): boolean {
    return this.done === this.given && this.lanes[0].length === 0 && this.lanes[1].length === 0;
  }

  /** Does up to `count` pieces of work. */
  stepCompute(count: number): void {
    this.runCompute(Math.min(this.given, this.done + count));
  }

  runCompute(until: number): void {
    while (this.done < until) {
      const work = this.#work[this.#head] as Work;
      this.#work[this.#head++] = undefined;
      this.done++;
      work();
    }
    if (this.#head === this.#work.length) {
      this.#work.length = 0;
      this.#head = 0;
    }
    while (this.#quiet.length > 0 && (this.#quiet[0] as { until: number }).until <= this.done) this.#quiet.shift()?.resolve();
  }

  /** The lane's first move goes on by a page, or, where all pages are copied, is over. */
  stepLane(lane: 0 | 1): void {
    const moves = this.lanes[lane];
    let index = 0;
    // Bytes may be there long before anybody is told: later moves go on meanwhile.
    while (index < moves.length && (moves[index] as LaneMove).isCopied) index++;
    const move = moves[index];
    if (move === undefined) {
      this.settleFirst(lane);
      return;
    }
    if (move.after > this.done) this.runCompute(move.after);
    if (move.isCopied) return; // the work before it has pulled it along
    if (move.outcome === "cancelled") move.isCopied = true;
    else this.#copyOne(lane, move);
  }

  #copyOne(lane: 0 | 1, move: LaneMove): void {
    if (this.failNext[lane]) {
      this.failNext[lane] = false;
      move.outcome = "failed";
    }
    if (move.outcome === "failed") {
      for (const slot of move.toSlots) move.to.fillPage(slot, POISON);
      move.isCopied = true;
      return;
    }
    move.to.copyPage(move.from, move.fromSlots[move.copied] as number, move.toSlots[move.copied] as number);
    move.copied++;
    move.isCopied = move.copied === move.fromSlots.length;
  }

  /** Tells the end of the lane's first move, if its bytes are there. */
  settleFirst(lane: 0 | 1): boolean {
    const [move] = this.lanes[lane];
    if (move === undefined || !move.isCopied) return false;
    this.lanes[lane].shift();
    move.settle(move.outcome);
    return true;
  }
}
