/** Matrix product with a weight stored by output feature. */
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { enqueue } from "./op.js";

/** T is one of f32, f16, bf16. */
export interface LinearArgs {
  /** T `[rows, in_features]`. */
  x: Tensor;
  /** T `[out_features, in_features]`. */
  weight: Tensor;
  /** T `[out_features]`. */
  bias?: Tensor | undefined;
  /** T or f32 `[rows, out_features]`. */
  out: Tensor;
  /** A row's bits do not depend on the number of rows. @default false */
  batchInvariant?: boolean | undefined;
}

/**
 * `out = x · weightᵀ + bias`, accumulated in f32.
 *
 * @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNKNOWN_OPTION, ERR_KVASIR_DISPOSED
 */
export function linear(stream: Stream, args: LinearArgs): void {
  enqueue("linear", stream, args);
}
