/** Partial attention results joined into one. */
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { enqueue } from "./op.js";

/** T is one of f32, f16, bf16. */
export interface MergeArgs {
  /** T or f32 `[num_parts, total_q, num_qo_heads, head_dim]`: results of `attention` over disjoint sets of keys. */
  parts: Tensor;
  /** f32 `[num_parts, total_q, num_qo_heads]`: their lse; -Infinity marks an empty part, whose values are not read. */
  partsLse: Tensor;
  /** T `[total_q, num_qo_heads, head_dim]`. */
  out: Tensor;
  /** f32 `[total_q, num_qo_heads]`. */
  lse?: Tensor | undefined;
}

/**
 * `lse = log Σ exp(partsLse)`, `out = Σ exp(partsLse - lse) · parts`: the one operator that joins splits, devices and page formats. Associative,
 * order-free to rounding, and safe for empty parts.
 *
 * @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNKNOWN_OPTION, ERR_KVASIR_DISPOSED
 */
export function merge(stream: Stream, args: MergeArgs): void {
  enqueue("merge", stream, args);
}
