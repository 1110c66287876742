/** Builds the inputs of an attention case from a seed, runs it on a device, and holds the result to the float64 oracle of the CPU. */
import type { AttentionArgs, Device, Tensor, TensorData } from "../lib/index.js";
import { attention, attentionReference, dtypeBytes } from "../lib/index.js";
import { type AttentionCase, random } from "./attention_cases.js";

/** New inputs each run; KVASIR_TEST_SEED repeats one. Failure messages print it. */
export const runSeed = Number(process.env.KVASIR_TEST_SEED ?? Date.now() % 1_000_000);

const UNUSED = 2 ** 31 - 1;

/** Host copies of every tensor of a call, by argument name. Whatever a call must not read holds NaN or a huge index. */
export interface Inputs {
  tensors: Record<string, { dtype: AttentionCase["dtype"]; shape: number[]; data: TensorData }>;
  scalars: Partial<AttentionArgs>;
  totalQ: number;
  qoHeads: number;
  /** Queries of the request under test. */
  queries: readonly [number, number];
}

const normals = (() => {
  const draw = random(7);
  const gauss = () => Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw());
  return Float32Array.from({ length: 1 << 16 }, gauss);
})();

type Fill = (out: Float32Array, start: number, count: number, scale: number) => void;

function filler(draw: () => number): Fill {
  return (out, start, count, scale) => {
    let at = Math.floor(draw() * normals.length);
    const step = 1 + 2 * Math.floor(draw() * 1000);
    for (let i = 0; i < count; i += 1) {
      at = (at + step) & 0xffff;
      out[start + i] = normals[at]! * scale;
    }
  };
}

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
const starts = (lengths: readonly number[], first: number): Int32Array =>
  Int32Array.from([first, ...lengths.map((_, b) => first + sum(lengths.slice(0, b + 1)))]);

export function makeInputs(c: AttentionCase, seed: number): Inputs {
  const draw = random(seed);
  const fill = filler(draw);
  const kvHeads = c.kvHeads ?? (c.group <= 2 ? 2 : 1);
  const qoHeads = kvHeads * c.group;
  const qoLens = c.alone ? [c.sq] : [2, c.sq, 5];
  const kvLens = c.alone ? [c.sk] : [7, c.sk, 3];
  const totalQ = sum(qoLens);
  const q = new Float32Array(totalQ * (qoHeads + (c.stridedQ ? 1 : 0)) * c.headDim);
  fill(q, 0, q.length, c.qScale ?? 1);
  const inputs: Inputs = {
    tensors: {
      q: { dtype: c.dtype, shape: [totalQ, qoHeads + (c.stridedQ ? 1 : 0), c.headDim], data: q },
      qoIndptr: { dtype: "i32", shape: [qoLens.length + 1], data: starts(qoLens, 0) },
    },
    scalars: {
      causal: c.causal,
      windowLeft: c.windowLeft,
      logitsSoftCap: c.softCap,
      numSplits: c.numSplits,
      batchInvariant: c.batchInvariant,
    },
    totalQ,
    qoHeads,
    queries: c.alone ? [0, c.sq] : [2, 2 + c.sq],
  };
  if (c.qStart !== undefined) {
    inputs.tensors.qStart = { dtype: "i32", shape: [qoLens.length], data: Int32Array.from(qoLens, () => c.qStart!) };
  }
  if (c.sink !== undefined) {
    const data = Float32Array.from({ length: qoHeads }, () => (c.sink === "random" ? 6 * draw() - 2 : (c.sink as number)));
    inputs.tensors.sink = { dtype: "f32", shape: [qoHeads], data };
  }
  if (c.rotary !== undefined) {
    const half = (c.headDim * c.rotary) / 2;
    inputs.tensors.kInvFreq = {
      dtype: "f32",
      shape: [half],
      data: Float32Array.from({ length: half }, (_, i) => 1e4 ** (-i / half)),
    };
    inputs.scalars.kRopeScale = 1.1;
  }
  if (c.pageSize) addPages(inputs, c, kvLens, kvHeads, draw, fill);
  else addRagged(inputs, c, kvLens, kvHeads, draw, fill);
  return inputs;
}

const weight = (draw: () => number): number => (draw() < 0.2 ? Number.NEGATIVE_INFINITY : 3 * draw() - 1.5);

function addRagged(inputs: Inputs, c: AttentionCase, kvLens: number[], kvHeads: number, draw: () => number, fill: Fill): void {
  const row = kvHeads * c.headDim;
  const lead = 2; // rows of NaN before the first key, and after the last
  const rows = lead + sum(kvLens) + 3;
  for (const name of ["k", "v"]) {
    const data = new Float32Array(rows * row).fill(Number.NaN);
    fill(data, lead * row, sum(kvLens) * row, 1);
    if (name === "k" && c.equalKeys)
      for (let i = lead + 1; i < rows - 3; i += 1) data.copyWithin(i * row, lead * row, (lead + 1) * row);
    inputs.tensors[name] = { dtype: c.dtype, shape: [rows, kvHeads, c.headDim], data };
  }
  inputs.tensors.kvIndptr = { dtype: "i32", shape: [kvLens.length + 1], data: starts(kvLens, lead) };
  if (c.logWeight !== undefined) {
    const shape = c.logWeight === "key" ? [rows] : [rows, kvHeads];
    const data = Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => weight(draw));
    data.fill(Number.NaN, 0, (lead * data.length) / rows);
    inputs.tensors.logWeight = { dtype: "f32", shape, data };
  }
}

function addPages(inputs: Inputs, c: AttentionCase, kvLens: number[], kvHeads: number, draw: () => number, fill: Fill): void {
  const pageSize = c.pageSize!;
  const rowLens = c.perHeadRows
    ? kvLens.flatMap((n) => Array.from({ length: kvHeads }, (_, h) => Math.max(0, n - h * 17)))
    : kvLens;
  const rowStart: number[] = [];
  const indices: number[] = [];
  const pageLen: number[] = [];
  const pageStart: number[] = [];
  let slots = 0;
  for (const n of rowLens) {
    rowStart.push(indices.length);
    let position = 0;
    for (let left = n; left > 0; left -= pageSize) {
      indices.push(slots++);
      pageLen.push(c.holes ? Math.floor(draw() * (pageSize + 1)) : pageSize);
      pageStart.push(position);
      position += c.holes ? Math.floor(draw() * 3 * pageSize) : pageSize;
    }
    indices.push(UNUSED); // the row's slack
    pageLen.push(UNUSED);
    pageStart.push(UNUSED);
  }
  const order = Array.from({ length: slots + 2 }, (_, i) => i);
  for (let i = order.length - 1; i > 0; i -= 1) {
    const j = Math.floor(draw() * (i + 1));
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  const slotOf = indices.map((page) => (page === UNUSED ? UNUSED : order[page]!));
  const run = pageSize * c.headDim;
  const pageElements = kvHeads * 2 * run + 8;
  const pages = new Float32Array((slots + 2) * pageElements).fill(Number.NaN);
  const weights = new Float32Array(indices.length * pageSize).fill(Number.NaN);
  for (const [r, n] of rowLens.entries()) {
    for (let t = 0; t < n; t += 1) {
      const entry = rowStart[r]! + Math.floor(t / pageSize);
      const offset = t % pageSize;
      if (c.holes && offset >= pageLen[entry]!) continue;
      weights[entry * pageSize + offset] = weight(draw);
      for (let h = 0; h < kvHeads; h += 1) {
        if (c.perHeadRows && r % kvHeads !== h) continue;
        const at = slotOf[entry]! * pageElements + 2 * h * run + offset * c.headDim;
        if (c.equalKeys) pages.fill(0.5, at, at + c.headDim);
        else fill(pages, at, c.headDim, 1);
        fill(pages, at + run, c.headDim, 1);
      }
    }
  }
  const bytes = dtypeBytes[c.dtype];
  const offsets = Array.from({ length: kvHeads }, (_, h) => [2 * h * run * bytes, (2 * h + 1) * run * bytes]).flat();
  const i32 = (shape: number[], data: number[]) => ({ dtype: "i32" as const, shape, data: Int32Array.from(data) });
  inputs.tensors.pages = { dtype: c.dtype, shape: [slots + 2, pageElements], data: pages };
  inputs.tensors.pageOffsets = i32([kvHeads, 2], offsets);
  inputs.tensors.rowStart = i32([rowLens.length], rowStart);
  inputs.tensors.kvLen = i32([rowLens.length], rowLens);
  inputs.tensors.pageIndices = i32([indices.length], slotOf);
  if (c.holes) {
    inputs.tensors.pageStart = i32([indices.length], pageStart);
    inputs.tensors.pageLen = i32([indices.length], pageLen);
  }
  if (c.logWeight !== undefined) inputs.tensors.logWeight = { dtype: "f32", shape: [weights.length], data: weights };
  inputs.scalars.pageSize = pageSize;
  inputs.scalars.perHeadRows = c.perHeadRows;
}

/** The arguments on a device, out and lse poisoned; dispose `owned` when done. */
export function upload(device: Device, c: AttentionCase, inputs: Inputs): { args: AttentionArgs; owned: Tensor[] } {
  const owned: Tensor[] = [];
  const own = (tensor: Tensor): Tensor => owned[owned.push(tensor) - 1]!;
  const tensors: Record<string, Tensor> = {};
  for (const [name, { dtype, shape, data }] of Object.entries(inputs.tensors))
    tensors[name] = own(device.tensor(dtype, shape, data));
  if (c.stridedQ) {
    const strides = [(inputs.qoHeads + 1) * c.headDim, c.headDim, 1];
    tensors.q = own(tensors.q!.view({ offset: c.headDim, shape: [inputs.totalQ, inputs.qoHeads, c.headDim], strides }));
  }
  const out = own(device.empty(c.dtype, [inputs.totalQ, inputs.qoHeads, c.headDim]));
  const lse = own(device.empty("f32", [inputs.totalQ, inputs.qoHeads]));
  out.fill(0xff);
  lse.fill(0xff);
  return { args: { ...inputs.scalars, ...tensors, out, lse } as AttentionArgs, owned };
}

export interface Result {
  out: Float32Array;
  lse: Float32Array;
}

export async function runAttention(device: Device, c: AttentionCase, inputs: Inputs): Promise<Result> {
  const { args, owned } = upload(device, c, inputs);
  attention(device.stream, args);
  const result = { out: await args.out.readFloats(), lse: await args.lse!.readFloats() };
  for (const tensor of owned) tensor.dispose();
  return result;
}

/** Rows of q that are compared: all, or where that would take the oracle long, three stretches of the request under test. */
function comparedRows(c: AttentionCase, inputs: Inputs): (readonly [number, number])[] {
  const [begin, end] = inputs.queries;
  if (c.sq < 200 || c.sq * c.sk * inputs.qoHeads * c.headDim < 1e8) return [[0, inputs.totalQ]];
  const middle = Math.floor((begin + end) / 2);
  return [
    [begin, begin + 24],
    [middle, middle + 24],
    [end - 24, end],
  ];
}

/**
 * The oracle on the compared rows: `out` in float64 rounded once, or the straightforward computation in the case's own dtype. A stretch
 * is a call of its own, in which the other requests have no queries.
 */
async function runReference(cpu: Device, c: AttentionCase, inputs: Inputs, dtype: AttentionCase["dtype"]): Promise<Result> {
  const { args, owned } = upload(cpu, c, inputs);
  const width = inputs.qoHeads * c.headDim;
  const result = { out: new Float32Array(inputs.totalQ * width), lse: new Float32Array(inputs.totalQ * inputs.qoHeads) };
  for (const [begin, end] of comparedRows(c, inputs)) {
    const rows = end - begin;
    using out = cpu.empty(dtype, [rows, inputs.qoHeads, c.headDim]);
    using q = args.q.slice(begin, end);
    using lse = args.lse!.slice(begin, end);
    if (rows === inputs.totalQ) {
      attentionReference(cpu.stream, { ...args, out });
    } else {
      const start = (c.qStart ?? c.sk - c.sq) + begin - inputs.queries[0];
      using qStart = cpu.tensor("i32", [c.alone ? 1 : 3], c.alone ? [start] : [0, start, 0]);
      using qoIndptr = cpu.tensor("i32", [c.alone ? 2 : 4], c.alone ? [0, rows] : [0, 0, rows, rows]);
      attentionReference(cpu.stream, { ...args, q, out, lse, qStart, qoIndptr });
    }
    result.out.set(await out.readFloats(), begin * width);
    result.lse.set(await lse.readFloats(), begin * inputs.qoHeads);
  }
  for (const tensor of owned) tensor.dispose();
  return result;
}

/** The largest difference in the rows; infinite where one is NaN, or where they differ in being infinite. */
function worst(
  actual: Float32Array,
  expected: Float32Array,
  rows: (readonly [number, number])[],
  width: number,
): { error: number; index: number } {
  let found = { error: 0, index: 0 };
  for (const [begin, end] of rows) {
    for (let i = begin * width; i < end * width; i += 1) {
      if (actual[i] === expected[i]) continue;
      const error = Math.abs(actual[i]! - expected[i]!);
      if (!(error <= found.error)) found = { error: Number.isNaN(error) ? Number.POSITIVE_INFINITY : error, index: i };
      if (found.error === Number.POSITIVE_INFINITY) return found;
    }
  }
  return found;
}

const FLOAT_EPSILON = 2 ** -23;

/**
 * Runs the case and throws, with the seed and the worst element, unless error <= 2 x the error of the straightforward computation in
 * the same dtype + a small term. f32 has no coarser computation to compare with: its term is some f32 roundings of a logit.
 */
export async function checkCase(device: Device, cpu: Device, c: AttentionCase, seed: number): Promise<void> {
  const inputs = makeInputs(c, seed);
  const actual = await runAttention(device, c, inputs);
  const exact = await runReference(cpu, c, inputs, "f32");
  const rows = comparedRows(c, inputs);
  const widths = { out: inputs.qoHeads * c.headDim, lse: inputs.qoHeads };
  const logit = Math.max(10, 12 * (c.qScale ?? 1)); // sigma of a logit is qScale; far tails included
  const float = 16 * FLOAT_EPSILON * logit;
  let outTerm = float;
  let lseTerm = float + 1e-5;
  if (c.dtype !== "f32") {
    const plain = await runReference(cpu, c, inputs, c.dtype);
    outTerm = 2 * worst(plain.out, exact.out, rows, widths.out).error + 1e-4;
    lseTerm += 2 * worst(plain.lse, exact.lse, rows, widths.lse).error;
  }
  for (const [name, term] of [["out", outTerm] as const, ["lse", lseTerm] as const]) {
    const { error, index } = worst(actual[name], exact[name], rows, widths[name]);
    if (error <= term) continue;
    const width = name === "out" ? c.headDim : 1;
    const [row, head] = [Math.floor(index / width / inputs.qoHeads), Math.floor(index / width) % inputs.qoHeads];
    throw new Error(
      `${name}[${row}, ${head}${name === "out" ? `, ${index % width}` : ""}] is ${actual[name][index]}, expected ${exact[name][index]} ` +
        `within ${term.toExponential(2)}; KVASIR_TEST_SEED=${seed} ${JSON.stringify(c)}`,
    );
  }
}
