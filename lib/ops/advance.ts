/** The next token's place, reserved on the device. */
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { enqueue } from "./op.js";

/** All i32. */
export interface AdvanceArgs {
  /** `[rows]`, in and out. */
  kvLen: Tensor;
  /** `[rows]`. */
  rowStart: Tensor;
  /** `[entries]`. */
  pageIndices: Tensor;
  /** `[rows]`, written: the new token's position. */
  positions: Tensor;
  /** `[rows]`, written: where `append` shall store it, -1 for inactive rows. */
  slotMapping: Tensor;
  /** `[rows]`, in and out: counts up. */
  step?: Tensor | undefined;
  /** `[rows]`: rows with 0 stay as they are. Left out: all are active. */
  active?: Tensor | undefined;
  /** Tokens a page, a multiple of 16 from 16 to 256. */
  pageSize: number;
}

/**
 * Adds one token to every active row, so that a recorded decode step replays with new lengths and no host.
 *
 * @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNKNOWN_OPTION, ERR_KVASIR_DISPOSED
 */
export function advance(stream: Stream, args: AdvanceArgs): void {
  enqueue("advance", stream, args);
}
