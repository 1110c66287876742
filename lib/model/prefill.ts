/** Reads tokens into sequences, in passes of bounded size; one pass may carry pieces of several sequences. */
import type { Resumption } from "../cache/context_store.js";
import type { Sequence } from "../cache/sequence.js";
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { checkTokens, enqueuePass, type PassPiece } from "./pass.js";
import type { Transformer } from "./transformer.js";

export interface PrefillItem {
  sequence: Sequence;
  tokens: ArrayLike<number>;
}

export interface PrefillOptions {
  /** Sequences of the call that are on their way back to the device: each layer of a pass waits for its own pages only. */
  resumptions?: readonly Resumption[] | undefined;
  signal?: AbortSignal | undefined;
  /** Called with the number of tokens that are in. */
  onProgress?: ((tokens: number) => void) | undefined;
  /**
   * Called while enqueueing with the logits `[count, vocab]` f32 after tokens [from, from + count) of an item. They are for ops that the
   * call enqueues on the same stream, and are overwritten after it.
   */
  onLogits?: ((logits: Tensor, item: number, from: number, count: number) => void) | undefined;
}

interface Piece {
  item: number;
  /** First token of the item, and how many. */
  from: number;
  count: number;
}

/**
 * Returns the logits `[items, vocab]` f32 after each item's last token; the caller disposes them.
 * @throws ERR_KVASIR_OUT_OF_PAGES, and then no sequence has changed; the signal's reason, and then a first part of the tokens is in.
 */
export async function prefill(
  transformer: Transformer,
  stream: Stream,
  items: readonly PrefillItem[],
  options: PrefillOptions = {},
): Promise<Tensor> {
  const { cache, device, config } = transformer.parts;
  for (const { tokens } of items) checkTokens(tokens, config.vocabSize);
  for (const { placed, ready } of options.resumptions ?? []) await (placed ?? ready);
  options.signal?.throwIfAborted();
  cache.reserve(
    items.map(({ sequence }) => cache.rowOf(sequence)),
    items.map(({ tokens }) => tokens.length),
  );
  const last = device.empty("f32", [items.length, config.vocabSize]);
  try {
    let running: Promise<void> | undefined;
    let done = 0;
    for (const pieces of passes(items, transformer.maxRows)) {
      options.signal?.throwIfAborted();
      runPass(transformer, stream, items, pieces, last, options);
      const finished = stream.finished();
      finished.catch(() => undefined); // awaited below; until then it must not count as unhandled
      // One pass runs while the next is prepared: the device stays busy, and an abort waits for little.
      await running;
      options.onProgress?.(done);
      running = finished;
      done += pieces.reduce((sum, { count }) => sum + count, 0);
    }
    await running;
    options.onProgress?.(done);
    return last;
  } catch (error) {
    last.dispose();
    throw error;
  }
}

/** Cuts the items into passes of at most `maxRows` tokens, in order. */
function* passes(items: readonly PrefillItem[], maxRows: number): Generator<Piece[]> {
  let pieces: Piece[] = [];
  let room = maxRows;
  for (const [item, { tokens }] of items.entries()) {
    for (let from = 0; from < tokens.length; ) {
      const count = Math.min(room, tokens.length - from);
      pieces.push({ item, from, count });
      from += count;
      room -= count;
      if (room === 0) {
        yield pieces;
        pieces = [];
        room = maxRows;
      }
    }
  }
  if (pieces.length > 0) yield pieces;
}

/** Items end in order, so the logits of those that end in this pass lie side by side in `last`. */
function runPass(
  transformer: Transformer,
  stream: Stream,
  items: readonly PrefillItem[],
  pieces: readonly Piece[],
  last: Tensor,
  { onLogits, resumptions }: PrefillOptions,
): void {
  const parts: PassPiece[] = pieces.map(({ item, from, count }) => {
    const { sequence, tokens } = items[item] as PrefillItem;
    const part = Array.prototype.slice.call(tokens, from, from + count) as number[];
    return { sequence, tokens: part, wantsLogits: from + count === tokens.length };
  });
  const first = pieces[0]?.item as number;
  const ends = parts.filter(({ wantsLogits }) => wantsLogits).length;
  using logits = ends > 0 ? last.slice(first, first + ends) : undefined;
  enqueuePass(transformer, stream, parts, logits, {
    beforeLayer:
      resumptions === undefined || resumptions.length === 0
        ? undefined
        : (layer) => {
            for (const resumption of resumptions) resumption.waitLayer(stream, layer);
          },
    onLogits:
      onLogits === undefined
        ? undefined
        : (rows, piece, from, count) => {
            const { item, from: start } = pieces[piece] as Piece;
            onLogits(rows, item, start + from, count);
          },
  });
}
