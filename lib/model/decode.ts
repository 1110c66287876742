/** Sequences of different lengths that grow by one token per step, together. */
import type { Sequence } from "../cache/sequence.js";
import { KvasirError } from "../errors.js";
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { checkSampling, type DecodeProgram, type DecodePrograms, type Sampling } from "./decode_program.js";
import type { Transformer } from "./transformer.js";

export interface DecodeOptions {
  /** A step is recorded once and launched as a whole; false enqueues its ops one by one, every time. Default true. */
  recorded?: boolean | undefined;
}

/**
 * A batch of decoding sequences. Each `step` enqueues one step and returns at once with a promise of the chosen tokens, one per sequence;
 * the next step needs no answer from the last, so callers may run a step ahead of what they read.
 */
export class DecodeBatch implements Disposable {
  readonly sequences: readonly Sequence[];
  readonly #transformer: Transformer;
  readonly #stream: Stream;
  readonly #programs: DecodePrograms;
  readonly #program: DecodeProgram;
  readonly #recorded: boolean;
  readonly #active: Int32Array;
  /** Table rows as the device knows them, by group. */
  readonly #rowStart: Int32Array[];
  #disposed = false;

  constructor(
    transformer: Transformer,
    stream: Stream,
    programs: DecodePrograms,
    sequences: readonly Sequence[],
    sampling: readonly Sampling[],
    { recorded = true }: DecodeOptions = {},
  ) {
    if (sampling.length !== sequences.length) {
      throw new KvasirError(
        "ERR_KVASIR_INVALID_ARGUMENT",
        `sampling has ${sampling.length} entries, expected ${sequences.length}, one per sequence`,
      );
    }
    sampling.forEach(checkSampling);
    this.sequences = sequences;
    this.#transformer = transformer;
    this.#stream = stream;
    this.#programs = programs;
    this.#recorded = recorded;
    const program = programs.take(
      sequences.length,
      sampling.every(({ temperature = 0 }) => temperature === 0),
    );
    this.#program = program;
    this.#active = new Int32Array(program.rows).fill(1, 0, sequences.length);
    this.#rowStart = program.rowStart.map(() => new Int32Array(program.rows).fill(-1, 0, sequences.length));
    const lengths = new Int32Array(program.rows);
    sequences.forEach((sequence, row) => {
      lengths[row] = sequence.length;
    });
    for (const kvLen of program.kvLen) program.upload(kvLen, lengths);
    program.upload(program.active, this.#active.slice());
    program.upload(program.step, new Int32Array(program.rows));
    if (!program.greedy) program.setSampling(sampling);
  }

  /** Chooses the first tokens from a prefill's logits `[sequences, vocab]`. */
  start(logits: Tensor): Promise<Int32Array> {
    this.#program.start(logits);
    return this.#read();
  }

  /**
   * Continues from given tokens instead. `draws` says which draws they were, each sequence's first token being 0, the default: the next
   * ones are then the same as if the batch had never been broken off.
   */
  startFrom(tokens: readonly number[], draws?: readonly number[]): void {
    const upload = (target: Tensor, values: readonly number[]): void => {
      const padded = new Int32Array(this.#program.rows);
      padded.set(values);
      this.#program.upload(target, padded);
    };
    upload(this.#program.ids, tokens);
    if (draws !== undefined) upload(this.#program.step, draws);
  }

  /**
   * Writes each active sequence's latest token into the cache and chooses its next one.
   * @throws ERR_KVASIR_OUT_OF_PAGES, and then nothing has changed.
   */
  step(): Promise<Int32Array> {
    this.enqueueStep();
    return this.#read();
  }

  /** A step whose tokens nobody reads: `step` without its answer. @throws ERR_KVASIR_OUT_OF_PAGES, and then nothing has changed. */
  enqueueStep(): void {
    if (this.#disposed) throw new KvasirError("ERR_KVASIR_DISPOSED", "Decode batch was disposed; make another");
    const { cache } = this.#transformer.parts;
    const rows = this.sequences.flatMap((sequence, i) => (this.#active[i] === 1 ? [cache.rowOf(sequence)] : []));
    cache.reserve(
      rows,
      rows.map(() => 1),
    );
    cache.flush();
    this.#followMoves();
    if (this.#recorded) this.#program.launch();
    else this.#program.enqueue();
    for (const row of rows) {
      cache.commit(row, 1);
      cache.releaseBehindWindow(row);
    }
  }

  /** Logits `[rows, vocab]` f32 of the latest step, for ops on the same stream; the first rows are the sequences'. */
  get logits(): Tensor {
    return this.#program.logits;
  }

  /** Takes a sequence out of later steps; its place in the results stays, without meaning. */
  finish(index: number): void {
    if (this.#active[index] !== 1) return;
    this.#active[index] = 0;
    this.#program.upload(this.#program.active, this.#active.slice());
  }

  /** Gives the program back for the next batch; sequences are the caller's. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#programs.give(this.#program);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  async #read(): Promise<Int32Array> {
    const tokens = (await this.#program.ids.read({ stream: this.#stream })) as Int32Array;
    return tokens.subarray(0, this.sequences.length);
  }

  /** Tells the device where rows begin, where that changed. */
  #followMoves(): void {
    this.#transformer.parts.cache.groups.forEach(({ table }, group) => {
      const known = this.#rowStart[group] as Int32Array;
      let hasMoved = false;
      this.sequences.forEach((sequence, i) => {
        if (this.#active[i] !== 1) return;
        const start = table.rowStart(sequence.row);
        hasMoved ||= start !== known[i];
        known[i] = start;
      });
      if (hasMoved) this.#program.upload(this.#program.rowStart[group] as Tensor, known.slice());
    });
  }
}
