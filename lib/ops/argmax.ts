/** Index of the greatest logit. */
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { enqueue } from "./op.js";

/** Logits are f32, f16 or bf16. */
export interface ArgmaxArgs {
  /** `[rows, vocab]`. */
  logits: Tensor;
  /** i32 `[rows]`; ties go to the lowest index. */
  out: Tensor;
}

/**
 * `out[r] = argmax(logits[r])`.
 *
 * @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNKNOWN_OPTION, ERR_KVASIR_DISPOSED
 */
export function argmax(stream: Stream, args: ArgmaxArgs): void {
  enqueue("argmax", stream, args);
}
