/** What a scheduler needs of a model: single passes of bounded size, and decode batches whose members change. */
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { chooseTokens } from "./choose.js";
import { checkSampling, type DecodePrograms, type Sampling } from "./decode_program.js";
import { checkTokens, enqueuePass, type PassHooks, type PassPiece } from "./pass.js";
import { RunningBatch } from "./running_batch.js";
import type { Transformer } from "./transformer.js";

export class Runner {
  readonly #transformer: Transformer;
  readonly #stream: Stream;
  readonly #programs: DecodePrograms;

  constructor(transformer: Transformer, stream: Stream, programs: DecodePrograms) {
    this.#transformer = transformer;
    this.#stream = stream;
    this.#programs = programs;
  }

  /** Most tokens of one pass, and most members of a batch. */
  get passTokens(): number {
    return this.#transformer.maxRows;
  }

  /** @throws ERR_KVASIR_INVALID_ARGUMENT for tokens outside the vocabulary, or none */
  checkTokens(tokens: ArrayLike<number>): void {
    checkTokens(tokens, this.#transformer.parts.config.vocabSize);
  }

  /** @throws ERR_KVASIR_INVALID_ARGUMENT */
  checkSampling(sampling: Sampling): void {
    checkSampling(sampling);
  }

  /**
   * Enqueues one pass of at most `passTokens` tokens, for which the sequences have reserved room, and returns at once. Where pieces want
   * logits, the returned i32 tensor holds the token chosen after each of them, by `sampling` in their order; dispose it.
   */
  enqueuePass(pieces: readonly PassPiece[], sampling: readonly Sampling[], hooks?: PassHooks): Tensor | undefined {
    const { device, config } = this.#transformer.parts;
    const ends = pieces.filter(({ wantsLogits }) => wantsLogits).length;
    if (ends === 0) {
      enqueuePass(this.#transformer, this.#stream, pieces, undefined, hooks);
      return undefined;
    }
    using logits = device.empty("f32", [ends, config.vocabSize]);
    enqueuePass(this.#transformer, this.#stream, pieces, logits, hooks);
    return chooseTokens(device, this.#stream, logits, sampling);
  }

  /** A decode batch whose members come and go. */
  createBatch(): RunningBatch {
    return new RunningBatch(this.#transformer, this.#stream, this.#programs);
  }
}
