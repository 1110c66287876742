/** New keys and values into pages. */
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { enqueue } from "./op.js";

/** T is one of f32, f16, bf16, the same for k, v, q and pages. */
export interface AppendArgs {
  /** T `[total, num_kv_heads, head_dim]`, before RoPE. */
  k: Tensor;
  /** T, as `k`. */
  v: Tensor;
  /** T `[total, num_qo_heads, head_dim]`: rotated in place; needs `invFreq`. */
  q?: Tensor | undefined;
  /** i32 `[total]`: positions in the text. */
  positions: Tensor;
  /** i32 `[total]`: page slot * pageSize + offset in the page; negative entries are skipped. */
  slotMapping: Tensor;
  /** T `[num_page_slots, elements_per_page]`. */
  pages: Tensor;
  /** i32 `[num_kv_heads, 2]`: byte offsets of each head's K and V in a page, multiples of 16. */
  pageOffsets: Tensor;
  /** f32 `[rotary_dim / 2]`, radians a token. Left out: no rotation. */
  invFreq?: Tensor | undefined;
  /** Multiplies cos and sin. @default 1 */
  ropeScale?: number | undefined;
  /** Tokens a page, a multiple of 16 from 16 to 256. */
  pageSize: number;
  /** Whether keys are stored after RoPE; q is rotated in either case. @default true */
  storeRotated?: boolean | undefined;
}

/**
 * Rotates k (and q) by their positions and stores k and v where `slotMapping` says: rotary embedding (Su et al., arXiv 2104.09864, pairs
 * i and i + rotary_dim / 2) fused with the cache write.
 *
 * @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNKNOWN_OPTION, ERR_KVASIR_DISPOSED
 */
export function append(stream: Stream, args: AppendArgs): void {
  enqueue("append", stream, args);
}
