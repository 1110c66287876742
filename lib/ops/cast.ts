/** Another dtype, another layout, or both. */
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { enqueue } from "./op.js";

/** Any floating dtypes, or i32 to i32; any strides; equal shapes of rank 1 to 4. */
export interface CastArgs {
  /** What is converted. */
  x: Tensor;
  /** Where it goes; its dtype decides. */
  out: Tensor;
}

/**
 * `out = x`, rounded to nearest even. Values past the range of f8e4m3 saturate; of the others they become infinite.
 *
 * @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNKNOWN_OPTION, ERR_KVASIR_DISPOSED
 */
export function cast(stream: Stream, args: CastArgs): void {
  enqueue("cast", stream, args);
}
