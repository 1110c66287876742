/**
 * One decode step of a batch as a recorded program: reserve a slot for each row on the device, embed the rows' tokens, run the layers, and
 * choose the next tokens into the very tensor that the next launch embeds. Lengths, table rows and sampling parameters live in small
 * device tensors, so the same program serves any sequences of its batch size.
 */
import { KvasirError } from "../errors.js";
import { advance } from "../ops/advance.js";
import { argmax } from "../ops/argmax.js";
import { sample } from "../ops/sample.js";
import type { Program } from "../program.js";
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import type { StepInputs, Transformer } from "./transformer.js";

/** How tokens are chosen; temperature 0 is greedy. */
export interface Sampling {
  /** Default 0. */
  temperature?: number | undefined;
  /** Keep the k most probable tokens; 0, the default: all. */
  topK?: number | undefined;
  /** Keep the most probable tokens whose mass reaches p; default 1. */
  topP?: number | undefined;
  /** Default 0. The same seed gives the same tokens. */
  seed?: number | undefined;
}

export class DecodeProgram {
  readonly rows: number;
  readonly greedy: boolean;
  readonly ids: Tensor;
  readonly kvLen: Tensor[];
  readonly rowStart: Tensor[];
  readonly active: Tensor;
  readonly step: Tensor;
  readonly #positions: Tensor;
  readonly #slotMapping: Tensor[];
  readonly #temperature: Tensor;
  readonly #topK: Tensor;
  readonly #topP: Tensor;
  readonly #seed: Tensor;
  readonly #logits: Tensor;
  readonly #transformer: Transformer;
  readonly #stream: Stream;
  #program: Program | undefined;
  #generation = -1;

  constructor(transformer: Transformer, stream: Stream, rows: number, greedy: boolean) {
    this.rows = rows;
    this.greedy = greedy;
    this.#transformer = transformer;
    this.#stream = stream;
    const { device, cache, config } = transformer.parts;
    const integers = (): Tensor => device.zeros("i32", [rows], { stream });
    this.ids = integers();
    this.active = integers();
    this.step = integers();
    this.#positions = integers();
    this.kvLen = cache.groups.map(integers);
    this.rowStart = cache.groups.map(integers);
    this.#slotMapping = cache.groups.map(integers);
    this.#topK = integers();
    this.#seed = integers();
    this.#temperature = device.zeros("f32", [rows], { stream });
    this.#topP = device.zeros("f32", [rows], { stream });
    this.#logits = device.empty("f32", [rows, config.vocabSize]);
  }

  /** Logits `[rows, vocab]` of the latest step. */
  get logits(): Tensor {
    return this.#logits;
  }

  setSampling(sampling: readonly Sampling[]): void {
    const fill = (target: Tensor, values: Float32Array | Int32Array, value: (s: Sampling) => number): void => {
      sampling.forEach((s, row) => {
        values[row] = value(s);
      });
      this.upload(target, values);
    };
    fill(this.#temperature, new Float32Array(this.rows), (s) => s.temperature ?? 0);
    fill(this.#topP, new Float32Array(this.rows).fill(1), (s) => s.topP ?? 1);
    fill(this.#topK, new Int32Array(this.rows), (s) => s.topK ?? 0);
    fill(this.#seed, new Int32Array(this.rows), (s) => s.seed ?? 0);
  }

  /** Writes in stream order. A failure here is a device failure, which the next read on the stream reports. */
  upload(target: Tensor, values: Float32Array | Int32Array): void {
    target.write(values, { stream: this.#stream }).catch(() => undefined);
  }

  /** Chooses the first tokens, from logits that a prefill left. */
  start(logits: Tensor): void {
    using first = this.#logits.slice(0, logits.shape[0] as number);
    first.copyFrom(logits, { stream: this.#stream });
    this.#choose();
  }

  /** One step for every active row. */
  launch(): void {
    const { cache } = this.#transformer.parts;
    const generation = cache.groups.reduce((sum, { table }) => sum + table.generation, 0);
    if (this.#program === undefined || generation !== this.#generation) {
      this.#program?.dispose();
      this.#program = this.#stream.program(() => this.enqueue());
      this.#generation = generation;
    }
    this.#stream.launch(this.#program);
  }

  /** The step's ops, enqueued or recorded. */
  enqueue(): void {
    const { cache, store } = this.#transformer.parts;
    const stream = this.#stream;
    const groups: StepInputs["groups"] = cache.groups.map((_, group) => {
      const [kvLen, rowStart, slotMapping] = [this.kvLen[group], this.rowStart[group], this.#slotMapping[group]] as [
        Tensor,
        Tensor,
        Tensor,
      ];
      const pageIndices = store.pageIndices(group);
      const { pageSize } = cache;
      // The draw's counter rises once a step, with the first group.
      const counter = group === 0 ? { step: this.step } : {};
      advance(stream, {
        kvLen,
        rowStart,
        pageIndices,
        positions: this.#positions,
        slotMapping,
        active: this.active,
        pageSize,
        ...counter,
      });
      return { kvLen, rowStart, slotMapping };
    });
    const inputs = { ids: this.ids, positions: this.#positions, groups };
    this.#end(this.#transformer.forward(this.#stream, this.rows, inputs));
  }

  /** The layers, for rows that have their place, and the choice of the next tokens; in pieces, as `Transformer.layers`. */
  *layers(inputs: StepInputs): Generator<number, void, void> {
    this.#end(yield* this.#transformer.layers(this.#stream, this.rows, inputs));
  }

  dispose(): void {
    this.#program?.dispose();
    const owned = [
      this.ids,
      this.active,
      this.step,
      this.#positions,
      this.#temperature,
      this.#topK,
      this.#topP,
      this.#seed,
      this.#logits,
    ];
    for (const tensor of [...owned, ...this.kvLen, ...this.rowStart, ...this.#slotMapping]) tensor.dispose();
  }

  #end(hidden: Tensor): void {
    this.#transformer.logits(this.#stream, hidden, this.#logits);
    this.#choose();
  }

  #choose(): void {
    if (this.greedy) {
      argmax(this.#stream, { logits: this.#logits, out: this.ids });
      return;
    }
    const [temperature, topK, topP, seed] = [this.#temperature, this.#topK, this.#topP, this.#seed];
    sample(this.#stream, { logits: this.#logits, temperature, topK, topP, seed, step: this.step, out: this.ids });
  }
}

/** @throws ERR_KVASIR_INVALID_ARGUMENT */
export function checkSampling({ temperature = 0, topK = 0, topP = 1, seed = 0 }: Sampling): void {
  const wrong = (name: string, value: number, expected: string): KvasirError =>
    new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `${name} is ${value}, expected ${expected}`);
  if (!(temperature >= 0 && Number.isFinite(temperature)))
    throw wrong("temperature", temperature, "a finite number of at least 0");
  if (!Number.isInteger(topK) || topK < 0) throw wrong("topK", topK, "an integer of at least 0");
  if (!(topP > 0 && topP <= 1)) throw wrong("topP", topP, "a number above 0 and at most 1");
  if (!Number.isInteger(seed) || Math.abs(seed) > 0x7fffffff) throw wrong("seed", seed, "a 32-bit integer");
}

/** Programs by batch size and kind, lent to one batch at a time and kept for the next. */
export class DecodePrograms {
  readonly #transformer: Transformer;
  readonly #stream: Stream;
  readonly #idle: DecodeProgram[] = [];

  constructor(transformer: Transformer, stream: Stream) {
    this.#transformer = transformer;
    this.#stream = stream;
  }

  /** A program for at least `rows` rows: sizes are powers of two, so that few are recorded. @throws ERR_KVASIR_INVALID_ARGUMENT */
  take(rows: number, greedy: boolean): DecodeProgram {
    const { maxRows } = this.#transformer;
    if (rows < 1 || rows > maxRows) {
      throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `decode batch has ${rows} sequences, expected 1 to ${maxRows}`);
    }
    let size = 1;
    while (size < rows) size *= 2;
    size = Math.min(size, maxRows);
    const found = this.#idle.findIndex((program) => program.rows === size && program.greedy === greedy);
    if (found >= 0) return this.#idle.splice(found, 1)[0] as DecodeProgram;
    return new DecodeProgram(this.#transformer, this.#stream, size, greedy);
  }

  give(program: DecodeProgram): void {
    this.#idle.push(program);
  }

  dispose(): void {
    for (const program of this.#idle.splice(0)) program.dispose();
  }
}
