/** The gate of a gated feed-forward layer. */
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { enqueue } from "./op.js";

/** T is one of f32, f16, bf16. */
export interface SiluMulArgs {
  /** T `[rows, width]`. */
  gate: Tensor;
  /** T `[rows, width]`. */
  up: Tensor;
  /** T `[rows, width]`; may be gate or up itself. */
  out: Tensor;
}

/**
 * `out = gate * sigmoid(gate) * up` (SwiGLU, Shazeer, arXiv 2002.05202), in f32.
 *
 * @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNKNOWN_OPTION, ERR_KVASIR_DISPOSED
 */
export function siluMul(stream: Stream, args: SiluMulArgs): void {
  enqueue("silu_mul", stream, args);
}
