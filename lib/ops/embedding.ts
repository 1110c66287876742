/** Rows of a table by index. */
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { enqueue } from "./op.js";

/** T is one of f32, f16, bf16. */
export interface EmbeddingArgs {
  /** i32 `[rows]`, each from 0 to vocab - 1. */
  ids: Tensor;
  /** T `[vocab, hidden]`. */
  table: Tensor;
  /** T `[rows, hidden]`. */
  out: Tensor;
}

/**
 * `out[i] = table[ids[i]]`.
 *
 * @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNKNOWN_OPTION, ERR_KVASIR_DISPOSED
 */
export function embedding(stream: Stream, args: EmbeddingArgs): void {
  enqueue("embedding", stream, args);
}
