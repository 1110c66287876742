/**
 * How whole pages get from one memory to another: device pool to host pool and back. A mover carries out moves in the order of the calls
 * (each direction by itself) and orders them against the compute stream in both directions; it decides nothing. The device mover works
 * with transfer streams and events, tests use one over plain arrays.
 */

/** How a move ended: only "done" means that the bytes are there. */
export type MoveOutcome = "done" | "cancelled" | "failed";

export interface Move {
  readonly bytes: number;
  /** How it ended, at the latest when the mover's deadline has passed: "late" then, and the memory is still in use. */
  readonly done: Promise<MoveOutcome | "late">;
  /** Resolves, and never rejects, once the move touches neither side any more. */
  readonly settled: Promise<MoveOutcome>;
  /** Work that the compute stream gets from now on starts only when the bytes that `layer` (all of them: absent) needs are there. */
  hold(layer?: number): void;
  /** Calls it off; false where it is too late for that. */
  cancel(): boolean;
}

export interface PageMover {
  /** Copies pages out of the device pool, once the compute stream has done what it was given so far. */
  toHost(group: number, deviceSlots: Int32Array, hostSlots: Int32Array): Move;
  /**
   * Copies pages into the device pool, in bands of layers so that work on the first ones can start under the copy of the rest; once the
   * compute stream has done what it was given so far, which may still read what those slots held before.
   */
  toDevice(group: number, hostSlots: Int32Array, deviceSlots: Int32Array): Move;
  /** Resolves when the compute stream has done what it was given so far: keyed tiers may then touch the pages it used. */
  quiet(): Promise<void>;
}
