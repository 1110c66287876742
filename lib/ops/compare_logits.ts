/** How far two predictions lie apart. */
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { enqueue } from "./op.js";

/** Logits are f32, f16 or bf16; the two may differ. */
export interface CompareLogitsArgs {
  /** `[rows, vocab]`. */
  reference: Tensor;
  /** `[rows, vocab]`. */
  logits: Tensor;
  /** f32 `[rows]`, in nats. */
  kl: Tensor;
  /** i32 `[rows]`: 1 where both have the same argmax. */
  agree: Tensor;
}

/**
 * `kl[r] = KL(softmax(reference[r]) || softmax(logits[r]))`.
 *
 * @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNKNOWN_OPTION, ERR_KVASIR_DISPOSED
 */
export function compareLogits(stream: Stream, args: CompareLogitsArgs): void {
  enqueue("compare_logits", stream, args);
}
