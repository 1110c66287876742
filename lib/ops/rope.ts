/** Rotary position embedding in place. */
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { enqueue } from "./op.js";

/** T is one of f32, f16, bf16. */
export interface RopeArgs {
  /** T `[total, heads, head_dim]`, in and out. */
  x: Tensor;
  /** i32 `[total]`. */
  positions: Tensor;
  /** f32 `[rotary_dim / 2]`, radians a token. */
  invFreq: Tensor;
  /** Multiplies cos and sin. @default 1 */
  ropeScale?: number | undefined;
}

/**
 * Rotates the pairs (x[i], x[i + rotary_dim / 2]) by position * invFreq[i] (Su et al., arXiv 2104.09864); dimensions past rotary_dim stay.
 *
 * @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNKNOWN_OPTION, ERR_KVASIR_DISPOSED
 */
export function rope(stream: Stream, args: RopeArgs): void {
  enqueue("rope", stream, args);
}
