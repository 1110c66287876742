/** Exact attention over ragged or paged KV. */
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { enqueue } from "./op.js";

/**
 * Arguments of `attention`. T is one of f32, f16, bf16, the same for q, k, v, pages and, unless it is f32, out; optional vectors that are left out have
 * the meaning named. KV is ragged (`k`, `v`) or paged (`pages` and its table), never both.
 */
export interface AttentionArgs {
  /** T `[total_q, num_qo_heads, head_dim]`; head_dim a multiple of 8 up to 256; rows aligned to 16 bytes. */
  q: Tensor;
  /** T or f32 `[total_q, num_qo_heads, head_dim]`. A query that sees no key gives 0. f32 keeps parts whole that `merge` joins. */
  out: Tensor;
  /** f32 `[total_q, num_qo_heads]`: natural log of the softmax denominator, -Infinity where no key is visible. */
  lse?: Tensor | undefined;
  /** Ragged: T `[total_kv, num_kv_heads, head_dim]`; num_qo_heads is a multiple of num_kv_heads. */
  k?: Tensor | undefined;
  /** Ragged: T, as `k`. */
  v?: Tensor | undefined;
  /** i32 `[batch + 1]`: queries of request b are rows qoIndptr[b] to qoIndptr[b + 1]. Left out: an even split. */
  qoIndptr?: Tensor | undefined;
  /** Ragged: i32 `[batch + 1]`, likewise for k and v. Left out: an even split. */
  kvIndptr?: Tensor | undefined;
  /** Paged: T `[num_page_slots, elements_per_page]`. */
  pages?: Tensor | undefined;
  /** Paged: i32 `[num_kv_heads, 2]`: byte offsets of each head's K and V in a page, multiples of 16. */
  pageOffsets?: Tensor | undefined;
  /** Paged: i32 `[rows]`: the row's first entry in `pageIndices`. One row a request, or a request and KV head (`perHeadRows`). */
  rowStart?: Tensor | undefined;
  /** Paged: i32 `[rows]`: tokens of the row. */
  kvLen?: Tensor | undefined;
  /** Paged: i32 `[entries]`: page slots. */
  pageIndices?: Tensor | undefined;
  /** Paged: i32 `[entries]`: position of the entry's first token. Left out: entries follow one another. */
  pageStart?: Tensor | undefined;
  /** Paged: i32 `[entries]`: valid tokens of the entry. Left out: all that `kvLen` covers. */
  pageLen?: Tensor | undefined;
  /** i32 `[batch]`: position of the request's first query. Left out: the last query sits at the last key. */
  qStart?: Tensor | undefined;
  /** f32 added to each key's logit: ragged `[total_kv]` or `[total_kv, num_kv_heads]`, paged `[entries * page_size]`. */
  logWeight?: Tensor | undefined;
  /** f32 `[num_qo_heads]`: a logit that counts in the denominator only. */
  sink?: Tensor | undefined;
  /** f32 `[rotary_dim / 2]`: keys are stored before RoPE and rotated on the way in with these frequencies (radians a token). */
  kInvFreq?: Tensor | undefined;
  /** Multiplies cos and sin of that rotation. @default 1 */
  kRopeScale?: number | undefined;
  /** Multiplies q·k. @default 1 / sqrt(head_dim) */
  smScale?: number | undefined;
  /** Logits s become cap * tanh(s / cap), before the mask. @default none */
  logitsSoftCap?: number | undefined;
  /** Keys left of the query's position that it sees besides its own. @default -1, unlimited */
  windowLeft?: number | undefined;
  /** Paged: tokens a page, a multiple of 16 from 16 to 256. */
  pageSize?: number | undefined;
  /** A query sees no key behind its position. @default false */
  causal?: boolean | undefined;
  /** Table rows are per request and KV head. @default false */
  perHeadRows?: boolean | undefined;
  /** A query's result has the same bits whatever else is in the call: other requests, or more of its own queries. @default false */
  batchInvariant?: boolean | undefined;
  /**
   * Equal parts that each request's KV is split into; the result is merged. @default 0: the backend's choice, for decode runs of equal
   * length over the whole batch (LeanAttention, arXiv 2405.10480). With `batchInvariant` it changes no bit.
   */
  numSplits?: number | undefined;
}

/**
 * `out = softmax(mask(softcap(smScale · q kᵀ) + logWeight)) v`, with accumulation in f32; query head h reads KV head
 * floor(h / (num_qo_heads / num_kv_heads)). Exact, by online softmax over tiles (Dao et al., arXiv 2205.14135).
 *
 * @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNKNOWN_OPTION for arguments;
 * ERR_KVASIR_UNSUPPORTED where the device has no kernel for them; ERR_KVASIR_OUT_OF_MEMORY for scratch; ERR_KVASIR_DISPOSED
 *
 * @example
 * ```ts
 * import { attention, openDevice } from "kvasir";
 *
 * using device = openDevice("cpu");
 * const random = (n: number) => Float32Array.from({ length: n }, () => Math.random() - 0.5);
 * using q = device.tensor("f32", [2, 4, 64], random(2 * 4 * 64)); // 2 queries, 4 heads
 * using k = device.tensor("f32", [9, 2, 64], random(9 * 2 * 64)); // 9 keys, 2 KV heads
 * using v = device.tensor("f32", [9, 2, 64], random(9 * 2 * 64));
 * using out = device.empty("f32", [2, 4, 64]);
 * attention(device.stream, { q, k, v, out, causal: true });
 * console.log(await out.readFloats());
 * ```
 */
export function attention(stream: Stream, args: AttentionArgs): void {
  enqueue("attention", stream, args);
}
