/** The inputs of an attention case from a seed: host copies, with poison wherever a call must not read. */
import { type AttentionArgs, dtypeBytes, type TensorData } from "../lib/index.js";
import { type AttentionCase, random } from "./attention_cases.js";

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
  const kvLens = c.kvLens ?? (c.alone ? [c.sk] : [7, c.sk, 3]);
  const qoLens = c.qoLens ?? (c.kvLens ? kvLens.map(() => c.sq) : c.alone ? [c.sq] : [2, c.sq, 5]);
  const totalQ = sum(qoLens);
  const q = new Float32Array(totalQ * (qoHeads + (c.stridedQ ? 1 : 0)) * c.headDim);
  fill(q, 0, q.length, c.qScale ?? 1);
  const inputs: Inputs = {
    tensors: {
      q: { dtype: c.dtype, shape: [totalQ, qoHeads + (c.stridedQ ? 1 : 0), c.headDim], data: q },
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
    queries: c.kvLens ? [0, totalQ] : c.alone ? [0, c.sq] : [2, 2 + c.sq],
  };
  if (c.kvLens === undefined || c.qoLens !== undefined)
    inputs.tensors.qoIndptr = { dtype: "i32", shape: [qoLens.length + 1], data: starts(qoLens, 0) };
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

function addRagged(
  inputs: Inputs,
  c: AttentionCase,
  kvLens: readonly number[],
  kvHeads: number,
  draw: () => number,
  fill: Fill,
): void {
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

function addPages(
  inputs: Inputs,
  c: AttentionCase,
  kvLens: readonly number[],
  kvHeads: number,
  draw: () => number,
  fill: Fill,
): void {
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
  const i32 = (shape: number[], data: readonly number[]) => ({ dtype: "i32" as const, shape, data: Int32Array.from(data) });
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
