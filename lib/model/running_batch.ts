/**
 * A decode batch whose members come and go between steps ("continuous batching"). Each member keeps its own draw counter and its place in
 * the program; a member that joins brings its latest token from the host or straight from the tensor where the device chose it, so
 * nothing waits. What a member gets does not depend on who else is there, as far as the model's own steps do not.
 */
import type { Sequence } from "../cache/sequence.js";
import { KvasirError } from "../errors.js";
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import type { DecodeProgram, DecodePrograms, Sampling } from "./decode_program.js";
import type { Transformer } from "./transformer.js";

/** A member's latest token: chosen, but not yet in its sequence. */
export type LatestToken = number | { ids: Tensor; row: number };

/** Steps in a row that a program twice as large as needed is kept: members often come back. */
const patience = 16;

/** One sequence of a running batch. */
export class BatchMember {
  readonly sequence: Sequence;
  readonly sampling: Sampling;
  /** Number of the latest token's draw; each step adds one. */
  draw: number;
  /** Row of the program. */
  slot = -1;
  /** Until the next step puts it into the program. */
  latest: LatestToken | undefined;

  /** @internal */
  constructor(sequence: Sequence, sampling: Sampling, draw: number, latest: LatestToken) {
    this.sequence = sequence;
    this.sampling = sampling;
    this.draw = draw;
    this.latest = latest;
  }
}

export class RunningBatch implements Disposable {
  readonly #transformer: Transformer;
  readonly #stream: Stream;
  readonly #programs: DecodePrograms;
  readonly #members: Set<BatchMember> = new Set();
  #program: DecodeProgram | undefined;
  /** Members by row. */
  #rows: (BatchMember | undefined)[] = [];
  /** Whether the device's settings are behind the members'. */
  #isStale = false;
  #idleSteps = 0;
  /** Table rows as the device knows them, by group. */
  #rowStart: Int32Array[] = [];

  constructor(transformer: Transformer, stream: Stream, programs: DecodePrograms) {
    this.#transformer = transformer;
    this.#stream = stream;
    this.#programs = programs;
  }

  get size(): number {
    return this.#members.size;
  }

  /**
   * Adds a sequence from the next step on. `latest` is its latest token, the `draw`-th (from 0) of its answer. A tensor must stay until
   * that step.
   */
  join(sequence: Sequence, sampling: Sampling, draw: number, latest: LatestToken): BatchMember {
    const { maxRows } = this.#transformer;
    if (this.#members.size >= maxRows) {
      throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `batch has ${maxRows} sequences, which is all that a pass takes`);
    }
    const member = new BatchMember(sequence, sampling, draw, latest);
    this.#members.add(member);
    this.#isStale = true;
    return member;
  }

  /** Takes a member out of later steps; a no-op for one that left. */
  leave(member: BatchMember): void {
    if (!this.#members.delete(member)) return;
    if (member.slot >= 0) this.#rows[member.slot] = undefined;
    member.slot = -1;
    member.latest = undefined;
    this.#isStale = true;
  }

  /**
   * Writes each member's latest token into its sequence and chooses its next one; enqueued, and returns at once. The promise gives the
   * chosen tokens in the order of `members`.
   * @throws ERR_KVASIR_OUT_OF_PAGES, and then nothing has changed.
   */
  step(): { members: BatchMember[]; tokens: Promise<Int32Array> } {
    const { cache } = this.#transformer.parts;
    const members = [...this.#members];
    const rows = members.map(({ sequence }) => cache.rowOf(sequence));
    cache.reserve(
      rows,
      rows.map(() => 1),
    );
    cache.flush();
    const program = this.#settle();
    this.#followMoves(program);
    program.launch();
    for (const member of members) {
      member.draw++;
      cache.commit(member.sequence.row, 1);
      cache.releaseBehindWindow(member.sequence.row);
    }
    const slots = members.map(({ slot }) => slot);
    return { members, tokens: this.#read(program, slots) };
  }

  /** Gives the program back; sequences are the caller's. */
  dispose(): void {
    this.#members.clear();
    this.#rows = [];
    if (this.#program !== undefined) this.#programs.give(this.#program);
    this.#program = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  async #read(program: DecodeProgram, slots: readonly number[]): Promise<Int32Array> {
    const ids = (await program.ids.read({ stream: this.#stream })) as Int32Array;
    return Int32Array.from(slots, (slot) => ids[slot] as number);
  }

  /** A program that fits the members, with all of them in it. */
  #settle(): DecodeProgram {
    const count = this.#members.size;
    const isGreedy = [...this.#members].every(({ sampling }) => (sampling.temperature ?? 0) === 0);
    const old = this.#program;
    const isLarge = old !== undefined && 2 * count <= old.rows;
    this.#idleSteps = isLarge ? this.#idleSteps + 1 : 0;
    const fits = old !== undefined && count <= old.rows && isGreedy === old.greedy && this.#idleSteps < patience;
    const program = fits ? old : this.#programs.take(count, isGreedy);
    if (!fits) {
      this.#program = program;
      this.#rows = new Array(program.rows).fill(undefined);
      this.#idleSteps = 0;
    }
    if (!fits || this.#isStale) this.#upload(program, fits ? undefined : old);
    this.#isStale = false;
    return program;
  }

  /** Brings the device's settings up to date; `old` is the program that the members leave for this one. */
  #upload(program: DecodeProgram, old: DecodeProgram | undefined): void {
    const { rows } = program;
    const [active, step, lengths] = [new Int32Array(rows), new Int32Array(rows), new Int32Array(rows)];
    const sampling: Sampling[] = new Array(rows).fill({});
    let free = 0;
    for (const member of this.#members) {
      if (this.#rows[member.slot] !== member) {
        const from = member.slot;
        while (this.#rows[free] !== undefined) free++;
        member.slot = free;
        this.#rows[free] = member;
        this.#bring(program, free, member.latest ?? { ids: (old as DecodeProgram).ids, row: from });
        member.latest = undefined;
      }
      const { slot } = member;
      active[slot] = 1;
      step[slot] = member.draw;
      lengths[slot] = member.sequence.length;
      sampling[slot] = member.sampling;
    }
    for (const kvLen of program.kvLen) program.upload(kvLen, lengths);
    program.upload(program.active, active);
    program.upload(program.step, step);
    if (!program.greedy) program.setSampling(sampling);
    this.#rowStart = program.rowStart.map(() => new Int32Array(rows).fill(-1));
    if (old !== undefined) this.#programs.give(old);
  }

  /** Puts a member's latest token into its row. */
  #bring(program: DecodeProgram, slot: number, latest: LatestToken): void {
    using target = program.ids.slice(slot, slot + 1);
    if (typeof latest === "number") {
      program.upload(target, Int32Array.of(latest));
      return;
    }
    using source = latest.ids.slice(latest.row, latest.row + 1);
    target.copyFrom(source, { stream: this.#stream });
  }

  /** Tells the device where table rows begin, where that changed. */
  #followMoves(program: DecodeProgram): void {
    this.#transformer.parts.cache.groups.forEach(({ table }, group) => {
      const known = this.#rowStart[group] as Int32Array;
      let hasMoved = false;
      for (const { slot, sequence } of this.#members) {
        const start = table.rowStart(sequence.row);
        hasMoved ||= start !== known[slot];
        known[slot] = start;
      }
      if (hasMoved)
        program.upload(
          program.rowStart[group] as Tensor,
          Int32Array.from(known, (start) => Math.max(0, start)),
        );
    });
  }
}
