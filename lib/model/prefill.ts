/**
 * Reads tokens into sequences, in passes of bounded size. One pass may carry pieces of several sequences of different lengths: they lie
 * one after another ("ragged"), and each attends to its own pages.
 */
import type { Sequence } from "../cache/sequence.js";
import { KvasirError } from "../errors.js";
import { embedding } from "../ops/embedding.js";
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import type { StepInputs, Transformer } from "./transformer.js";

export interface PrefillItem {
  sequence: Sequence;
  tokens: ArrayLike<number>;
}

export interface PrefillOptions {
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

/** Rows of logits that are made at a time where all are wanted: a vocabulary is wide. */
const logitsRows = 128;

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

/** @throws ERR_KVASIR_INVALID_ARGUMENT */
function checkTokens(tokens: ArrayLike<number>, vocab: number): void {
  if (tokens.length === 0) throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", "tokens is empty, expected at least one token");
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i] as number;
    if (!Number.isInteger(token) || token < 0 || token >= vocab) {
      throw new KvasirError(
        "ERR_KVASIR_INVALID_ARGUMENT",
        `tokens[${i}] is ${token}, expected an integer from 0 to ${vocab - 1}`,
      );
    }
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

function runPass(
  transformer: Transformer,
  stream: Stream,
  items: readonly PrefillItem[],
  pieces: readonly Piece[],
  last: Tensor,
  { onLogits }: PrefillOptions,
): void {
  const { cache } = transformer.parts;
  cache.flush();
  const rows = pieces.reduce((sum, { count }) => sum + count, 0);
  const { inputs, owned } = passInputs(transformer, stream, items, pieces, rows);
  try {
    const hidden = transformer.forward(stream, rows, inputs);
    let row = 0;
    const ends: number[] = [];
    for (const { item, from, count } of pieces) {
      if (onLogits !== undefined) everyLogits(transformer, stream, hidden, row, { item, from, count }, onLogits);
      row += count;
      if (from + count === items[item]?.tokens.length) ends.push(row - 1);
    }
    const firstEnd = pieces[0]?.item as number;
    if (ends.length > 0) lastLogits(transformer, stream, hidden, ends, last, firstEnd);
  } finally {
    for (const tensor of owned) tensor.dispose();
  }
  for (const { item, count } of pieces) {
    const { sequence } = items[item] as PrefillItem;
    sequence.commit(count);
    cache.releaseBehindWindow(sequence.row);
  }
}

function passInputs(
  transformer: Transformer,
  stream: Stream,
  items: readonly PrefillItem[],
  pieces: readonly Piece[],
  rows: number,
): { inputs: StepInputs; owned: Tensor[] } {
  const { cache, device } = transformer.parts;
  const ids = new Int32Array(rows);
  const positions = new Int32Array(rows);
  const qoIndptr = new Int32Array(pieces.length + 1);
  const kvLen = new Int32Array(pieces.length);
  const tables = cache.groups.map(() => ({ slotMapping: new Int32Array(rows), rowStart: new Int32Array(pieces.length) }));
  pieces.forEach(({ item, from, count }, i) => {
    const { sequence, tokens } = items[item] as PrefillItem;
    const row = qoIndptr[i] as number;
    const start = sequence.length;
    for (let k = 0; k < count; k++) {
      ids[row + k] = tokens[from + k] as number;
      positions[row + k] = start + k;
    }
    qoIndptr[i + 1] = row + count;
    kvLen[i] = start + count;
    tables.forEach(({ slotMapping, rowStart }, group) => {
      cache.slotMapping(group, sequence.row, start, count, slotMapping, row);
      rowStart[i] = cache.groups[group]?.table.rowStart(sequence.row) as number;
    });
  });
  const owned: Tensor[] = [];
  const upload = (data: Int32Array): Tensor => {
    const tensor = device.tensor("i32", [data.length], data, { stream });
    owned.push(tensor);
    return tensor;
  };
  const lengths = upload(kvLen);
  const inputs = {
    ids: upload(ids),
    positions: upload(positions),
    qoIndptr: upload(qoIndptr),
    groups: tables.map(({ slotMapping, rowStart }) => ({
      slotMapping: upload(slotMapping),
      rowStart: upload(rowStart),
      kvLen: lengths,
    })),
  };
  return { inputs, owned };
}

/** Logits of the rows `ends`, into `last` from item `first` on: items end in order. */
function lastLogits(transformer: Transformer, stream: Stream, hidden: Tensor, ends: number[], last: Tensor, first: number): void {
  const { device, dtype, config } = transformer.parts;
  using index = device.tensor("i32", [ends.length], ends, { stream });
  using gathered = device.empty(dtype, [ends.length, config.hiddenSize]);
  using out = last.slice(first, first + ends.length);
  embedding(stream, { ids: index, table: hidden, out: gathered });
  transformer.logits(stream, gathered, out);
}

function everyLogits(
  transformer: Transformer,
  stream: Stream,
  hidden: Tensor,
  row: number,
  { item, from, count }: Piece,
  onLogits: NonNullable<PrefillOptions["onLogits"]>,
): void {
  const { device, config } = transformer.parts;
  for (let start = 0; start < count; start += logitsRows) {
    const size = Math.min(logitsRows, count - start);
    using logits = device.empty("f32", [size, config.vocabSize]);
    using part = hidden.slice(row + start, row + start + size);
    transformer.logits(stream, part, logits);
    onLogits(logits, item, from + start, size);
  }
}
