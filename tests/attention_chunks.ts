/** The law of `batchInvariant`: a query's bits are the same whichever queries and requests share its call. */
import { expect } from "vitest";
import { type AttentionArgs, attention, type Device } from "../lib/index.js";
import { type AttentionCase, random } from "./attention_cases.js";
import { upload } from "./attention_check.js";
import { type Inputs, makeInputs } from "./attention_inputs.js";

/** Queries of a call, where one call of all is held against calls of few. */
export const chunkSizes: readonly number[] = [1, 2, 3, 7, 16, 17, 33, 64, 500];

/** Splits that are asked for from call to call: they may change the work, never the bits. */
const splits = [undefined, 1, undefined, 5, 40] as const;

interface Request {
  index: number;
  /** Of the first query in q, and of the first key in k or the first entry in pageIndices. */
  firstQuery: number;
  firstKey: number;
  queries: number;
  keys: number;
}

function requestsOf(c: AttentionCase, inputs: Inputs): Request[] {
  const kvLens = c.kvLens ?? (c.alone ? [c.sk] : [7, c.sk, 3]);
  const qoIndptr = inputs.tensors.qoIndptr!.data as Int32Array;
  const firsts = (c.pageSize ? inputs.tensors.rowStart! : inputs.tensors.kvIndptr!).data as Int32Array;
  return kvLens.map((keys, index) => {
    const [firstQuery, end] = [qoIndptr[index]!, qoIndptr[index + 1]!];
    return { index, firstQuery, firstKey: firsts[index]!, queries: end - firstQuery, keys };
  });
}

/** Bits of `out` and `lse` of `rows` rows from `first` on. */
async function bitsOf({ out, lse }: AttentionArgs, first: number, rows: number): Promise<Buffer> {
  using outRows = out.slice(first, first + rows);
  using lseRows = lse!.slice(first, first + rows);
  const parts = [await outRows.read(), await lseRows.read()];
  return Buffer.concat(parts.map((part) => Buffer.from(part.buffer, part.byteOffset, part.byteLength)));
}

/** Queries [begin, end) of one request as a call of their own, of which the keys behind the last query are not there yet. */
async function runChunk(
  device: Device,
  c: AttentionCase,
  args: AttentionArgs,
  { index, firstQuery, firstKey, queries, keys }: Request,
  [begin, end]: readonly [number, number],
  numSplits: number | undefined,
): Promise<Buffer> {
  const kvLen = c.causal ? Math.max(0, keys - queries + end) : keys;
  const qStart = device.tensor("i32", [1], [keys - queries + begin]);
  const lengths = device.tensor("i32", c.pageSize ? [1] : [2], c.pageSize ? [kvLen] : [firstKey, firstKey + kvLen]);
  const q = args.q.slice(firstQuery + begin, firstQuery + end);
  const out = device.empty(c.out ?? c.dtype, [end - begin, ...q.shape.slice(1)]);
  const lse = device.empty("f32", [end - begin, q.shape[1]!]);
  for (const tensor of [out, lse]) tensor.fill(0xff);
  const rowStart = args.rowStart?.slice(index, index + 1);
  const table = c.pageSize ? { rowStart, kvLen: lengths } : { kvIndptr: lengths };
  const chunk = { ...args, q, out, lse, qoIndptr: undefined, qStart, numSplits, ...table };
  attention(device.stream, chunk);
  const bits = await bitsOf(chunk, 0, end - begin);
  for (const tensor of [qStart, lengths, q, out, lse, rowStart]) tensor?.dispose();
  return bits;
}

/** Up to `most` chunks of `size` queries out of `queries`: the first, the last, and some between. */
function someChunks(queries: number, size: number, most: number, draw: () => number): (readonly [number, number])[] {
  const count = Math.ceil(queries / size);
  if (count === 0) return [];
  const chosen = new Set([0, count - 1, ...Array.from({ length: most - 2 }, () => Math.floor(draw() * count))]);
  return [...chosen].map((i) => [i * size, Math.min(queries, (i + 1) * size)] as const);
}

/** Runs all requests of the case in one call, then chunks of each of them in calls of their own, and compares the bits. */
export async function checkChunks(device: Device, c: AttentionCase, seed: number, most: number): Promise<void> {
  const inputs = makeInputs({ ...c, batchInvariant: true }, seed);
  const draw = random(seed);
  const { args, owned } = upload(device, c, inputs);
  attention(device.stream, args);
  let call = Math.floor(draw() * splits.length);
  for (const request of requestsOf(c, inputs)) {
    for (const size of chunkSizes.filter((_, i) => i === 0 || chunkSizes[i - 1]! < request.queries)) {
      for (const chunk of someChunks(request.queries, size, most, draw)) {
        const numSplits = splits[call++ % splits.length];
        const expected = await bitsOf(args, request.firstQuery + chunk[0], chunk[1] - chunk[0]);
        const bits = await runChunk(device, c, args, request, chunk, numSplits);
        const what = `queries [${chunk}) of request ${request.index}, numSplits ${numSplits}`;
        expect(bits.equals(expected), `${what}; KVASIR_TEST_SEED=${seed} ${JSON.stringify(c)}`).toBe(true);
      }
    }
  }
  for (const tensor of owned) tensor.dispose();
}
