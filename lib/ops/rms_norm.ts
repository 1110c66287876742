/** Root-mean-square normalisation. */
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { enqueue } from "./op.js";

/** T is one of f32, f16, bf16. */
export interface RmsNormArgs {
  /** T `[rows, hidden]`. */
  x: Tensor;
  /** T `[hidden]`. */
  weight: Tensor;
  /** T `[rows, hidden]`, in and out: x is added to it, and the sum is what is normalised. */
  residual?: Tensor | undefined;
  /** T `[rows, hidden]`; may be x itself. */
  out: Tensor;
  /** Added to the mean square. @default 1e-5 */
  eps?: number | undefined;
}

/**
 * `out = x / sqrt(mean(x²) + eps) * weight` over the last dimension (Zhang & Sennrich, arXiv 1910.07467), in f32.
 *
 * @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNKNOWN_OPTION, ERR_KVASIR_DISPOSED
 */
export function rmsNorm(stream: Stream, args: RmsNormArgs): void {
  enqueue("rms_norm", stream, args);
}
