/** Reference outputs of the bundled model, and ways to get ours in the same form. */
import { open } from "node:fs/promises";
import { payloadIndex } from "../../lib/cache/page_format.js";
import { type Model, openSafetensors, type Sequence, type Tensor } from "../../lib/index.js";

export const modelFolder = "examples/model";

export interface Golden {
  shape: readonly number[];
  floats: Float32Array;
  ints: Int32Array;
}

/** A tensor of golden.safetensors, by name. */
export async function golden(name: string): Promise<Golden> {
  const checkpoint = await openSafetensors(`${modelFolder}/golden.safetensors`);
  const { file, offset, bytes, shape } = checkpoint.entry(name);
  const handle = await open(file);
  try {
    const buffer = new ArrayBuffer(bytes);
    await handle.read(new Uint8Array(buffer), 0, bytes, offset);
    return { shape, floats: new Float32Array(buffer), ints: new Int32Array(buffer) };
  } finally {
    await handle.close();
  }
}

/** Reads tokens in; returns the logits after each of the last `rows` tokens, one after another. */
export async function lastLogits(
  model: Model,
  sequence: Sequence,
  tokens: ArrayLike<number>,
  rows: number,
): Promise<Float32Array> {
  const first = tokens.length - rows;
  using kept = model.device.empty("f32", [rows, model.config.vocabSize]);
  const onLogits = (logits: Tensor, _: number, from: number, count: number): void => {
    const start = Math.max(from, first);
    if (start >= from + count) return;
    using source = logits.slice(start - from, count);
    using target = kept.slice(start - first, from + count - first);
    target.copyFrom(source, { stream: model.stream });
  };
  (await model.prefill([{ sequence, tokens }], { onLogits })).dispose();
  return kept.readFloats();
}

/** Greedy tokens after a prompt. */
export async function greedy(model: Model, tokens: readonly number[], count: number): Promise<number[]> {
  const made: number[] = [];
  for await (const { token } of model.generate(tokens, { maxTokens: count, stopTokens: [] })) made.push(token);
  return made;
}

/** Keys (part 0) or values (part 1) of a layer from the sequence's pages: [num_kv_heads, tokens, head_dim]. */
export async function cached(model: Model, sequence: Sequence, layer: number, part: 0 | 1): Promise<Float32Array> {
  const { format, table } = model.cache.groups[0] as (typeof model.cache.groups)[number];
  const { numKvHeads, headDim, pageSize, pageBytes, offsets } = format;
  const out = new Float32Array(numKvHeads * sequence.length * headDim);
  for (let entry = 0; entry * pageSize < sequence.length; entry++) {
    using page = model.store.pages(0).select(table.slot(sequence.row, entry));
    const floats = await page.readFloats({ stream: model.stream });
    const floatsPerByte = floats.length / pageBytes;
    const tokens = Math.min(pageSize, sequence.length - entry * pageSize);
    for (let head = 0; head < numKvHeads; head++) {
      const start = (offsets[payloadIndex(format, layer, head, part)] as number) * floatsPerByte;
      out.set(floats.subarray(start, start + tokens * headDim), (head * sequence.length + entry * pageSize) * headDim);
    }
  }
  return out;
}

export function maxDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new RangeError(`lengths differ: ${a.length} and ${b.length}`);
  let most = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs((a[i] as number) - (b[i] as number));
    if (!(difference <= most)) most = difference; // NaN is the largest difference of all
  }
  return most;
}

export function maxAbs(a: ArrayLike<number>): number {
  let most = 0;
  for (let i = 0; i < a.length; i++) most = Math.max(most, Math.abs(a[i] as number));
  return most;
}
