/** Negative log likelihood of given tokens. */
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { enqueue } from "./op.js";

/** Logits are f32, f16 or bf16. */
export interface CrossEntropyArgs {
  /** `[rows, vocab]`. */
  logits: Tensor;
  /** i32 `[rows]`; a negative target gives 0. */
  targets: Tensor;
  /** f32 `[rows]`, in nats. */
  nll: Tensor;
}

/**
 * `nll[r] = logsumexp(logits[r]) - logits[r][targets[r]]`.
 *
 * @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNKNOWN_OPTION, ERR_KVASIR_DISPOSED
 */
export function crossEntropy(stream: Stream, args: CrossEntropyArgs): void {
  enqueue("cross_entropy", stream, args);
}
