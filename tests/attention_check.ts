/** Runs an attention case on a device and holds the result to the float64 oracle of the CPU. */
import { type AttentionArgs, attention, attentionReference, type Device, type Tensor } from "../lib/index.js";
import type { AttentionCase } from "./attention_cases.js";
import { type Inputs, makeInputs } from "./attention_inputs.js";

/** New inputs each run; KVASIR_TEST_SEED repeats one. Failure messages print it. */
export const runSeed = Number(process.env.KVASIR_TEST_SEED ?? Date.now() % 1_000_000);

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
  const out = own(device.empty(c.out ?? c.dtype, [inputs.totalQ, inputs.qoHeads, c.headDim]));
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
 * the same dtype + a small term. Logits are f32 whatever the dtype, so that the term holds some of their roundings.
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
    outTerm += 2 * worst(plain.out, exact.out, rows, widths.out).error + 1e-4;
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
