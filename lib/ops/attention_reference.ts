/** Attention computed plainly in float64. */
import type { Stream } from "../stream.js";
import type { AttentionArgs } from "./attention.js";
import { enqueue } from "./op.js";

/**
 * The same function of the same arguments as `attention`, without tiles or tricks: what every kernel is tested against. CPU only, and slow.
 *
 * @throws as `attention`; ERR_KVASIR_UNSUPPORTED on CUDA
 */
export function attentionReference(stream: Stream, args: AttentionArgs): void {
  enqueue("attention_reference", stream, args);
}
