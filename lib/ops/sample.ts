/** One random token a row. */
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { enqueue } from "./op.js";

/** Logits are f32, f16 or bf16. Settings are vectors over rows, so that requests differ and change without a new recording. */
export interface SampleArgs {
  /** `[rows, vocab]`. */
  logits: Tensor;
  /** f32 `[rows]`; 0 takes the argmax. Left out: 1. */
  temperature?: Tensor | undefined;
  /** i32 `[rows]`: the most likely tokens kept; 0 or less keeps all. Left out: all. */
  topK?: Tensor | undefined;
  /** f32 `[rows]`: probability mass kept. Left out: 1. */
  topP?: Tensor | undefined;
  /** i32 `[rows]`. Left out: 0. */
  seed?: Tensor | undefined;
  /** i32 `[rows]`: number of the draw. Left out: 0. */
  step?: Tensor | undefined;
  /** i32 `[rows]`. */
  out: Tensor;
}

/**
 * Temperature, top-k, top-p, then one draw with a number that depends on (seed, step) alone (Philox, Salmon et al., SC 2011): the same seed gives
 * the same tokens on every backend, whatever the batch.
 *
 * @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNKNOWN_OPTION, ERR_KVASIR_DISPOSED
 */
export function sample(stream: Stream, args: SampleArgs): void {
  enqueue("sample", stream, args);
}
