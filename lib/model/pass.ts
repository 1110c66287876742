/**
 * One pass over tokens of one or several sequences: their pieces lie one after another ("ragged"), and each attends to its own pages.
 * A pass is enqueued and returns at once; room for its tokens was reserved before.
 */
import type { Sequence } from "../cache/sequence.js";
import { KvasirError } from "../errors.js";
import { embedding } from "../ops/embedding.js";
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import type { StepInputs, Transformer } from "./transformer.js";

/** Tokens that a pass appends to a sequence. */
export interface PassPiece {
  sequence: Sequence;
  tokens: ArrayLike<number>;
  /** Whether the logits after its last token are wanted. */
  wantsLogits: boolean;
}

export interface PassHooks {
  /** Called while enqueueing with the logits `[count, vocab]` after tokens [from, from + count) of a piece; they are overwritten later. */
  onLogits?: ((logits: Tensor, piece: number, from: number, count: number) => void) | undefined;
  /** Called before the ops of a layer are enqueued. */
  beforeLayer?: ((layer: number) => void) | undefined;
}

/** Rows of logits that are made at a time where all are wanted: a vocabulary is wide. */
const logitsRows = 128;

/** Enqueues the pass; `logits` `[pieces that want them, vocab]` f32 is written in the order of the pieces. */
export function enqueuePass(
  transformer: Transformer,
  stream: Stream,
  pieces: readonly PassPiece[],
  logits: Tensor | undefined,
  hooks: PassHooks = {},
): void {
  const { cache } = transformer.parts;
  cache.flush();
  const rows = pieces.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const { inputs, owned } = passInputs(transformer, stream, pieces, rows);
  try {
    if (hooks.beforeLayer !== undefined)
      transformer.prepare(stream, rows, pieces.filter(({ wantsLogits }) => wantsLogits).length);
    const hidden = transformer.forward(stream, rows, inputs, hooks.beforeLayer);
    let row = 0;
    const ends: number[] = [];
    pieces.forEach(({ tokens, wantsLogits }, piece) => {
      if (hooks.onLogits !== undefined) everyLogits(transformer, stream, hidden, row, tokens.length, piece, hooks.onLogits);
      row += tokens.length;
      if (wantsLogits) ends.push(row - 1);
    });
    if (ends.length > 0) lastLogits(transformer, stream, hidden, ends, logits as Tensor);
  } finally {
    for (const tensor of owned) tensor.dispose();
  }
  for (const { sequence, tokens } of pieces) {
    const position = sequence.length;
    sequence.commit(tokens.length);
    cache.noteTokens(sequence.row, position, tokens);
    cache.releaseBehindWindow(sequence.row);
  }
}

function passInputs(
  transformer: Transformer,
  stream: Stream,
  pieces: readonly PassPiece[],
  rows: number,
): { inputs: StepInputs; owned: Tensor[] } {
  const { cache, device } = transformer.parts;
  const ids = new Int32Array(rows);
  const positions = new Int32Array(rows);
  const qoIndptr = new Int32Array(pieces.length + 1);
  const kvLen = new Int32Array(pieces.length);
  const tables = cache.groups.map(() => ({ slotMapping: new Int32Array(rows), rowStart: new Int32Array(pieces.length) }));
  pieces.forEach(({ sequence, tokens }, i) => {
    const count = tokens.length;
    const row = qoIndptr[i] as number;
    const start = sequence.length;
    for (let k = 0; k < count; k++) {
      ids[row + k] = tokens[k] as number;
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

/** Logits of the rows `ends`. */
function lastLogits(transformer: Transformer, stream: Stream, hidden: Tensor, ends: number[], logits: Tensor): void {
  const { device, dtype, config } = transformer.parts;
  using index = device.tensor("i32", [ends.length], ends, { stream });
  using gathered = device.empty(dtype, [ends.length, config.hiddenSize]);
  embedding(stream, { ids: index, table: hidden, out: gathered });
  transformer.logits(stream, gathered, logits);
}

function everyLogits(
  transformer: Transformer,
  stream: Stream,
  hidden: Tensor,
  row: number,
  count: number,
  piece: number,
  onLogits: NonNullable<PassHooks["onLogits"]>,
): void {
  const { device, config } = transformer.parts;
  for (let start = 0; start < count; start += logitsRows) {
    const size = Math.min(logitsRows, count - start);
    using logits = device.empty("f32", [size, config.vocabSize]);
    using part = hidden.slice(row + start, row + start + size);
    transformer.logits(stream, part, logits);
    onLogits(logits, piece, start, size);
  }
}

/** @throws ERR_KVASIR_INVALID_ARGUMENT for tokens outside the vocabulary, or none */
export function checkTokens(tokens: ArrayLike<number>, vocab: number): void {
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
