/** What the machine can do: the ceilings that benches divide by. */
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { enqueue } from "./op.js";

export interface ProbeReadArgs {
  /** Any contiguous tensor of a multiple of 4 bytes. */
  x: Tensor;
  /** i32 `[1]`: xor of all 32-bit words. */
  out: Tensor;
}

/** Reads `x` once with the whole device. @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE, ERR_KVASIR_DISPOSED */
export function probeRead(stream: Stream, args: ProbeReadArgs): void {
  enqueue("probe_read", stream, args);
}

export interface ProbeFmaArgs {
  /** i32 `[1]`: floating-point operations done, in units of 2^20. */
  out: Tensor;
  /** Rounds of 2^20 vector multiply-adds a thread. @default 1 */
  iterations?: number | undefined;
}

/** Keeps every core's f32 multiply-add units busy; CPU only. @throws ERR_KVASIR_UNSUPPORTED on CUDA */
export function probeFma(stream: Stream, args: ProbeFmaArgs): void {
  enqueue("probe_fma", stream, args);
}
