/** Attention on the CPU against the float64 oracle, and the promises about its bits. CUDA runs the same cases in tests/cuda. */
import { afterAll, describe, expect, test } from "vitest";
import { type AttentionArgs, type Device, attention, openDevice } from "../../lib/index.js";
import { type AttentionCase, namedCases, pairwiseCases, pairwiseChunkCases } from "../attention_cases.js";
import { checkCase, runAttention, runSeed, upload } from "../attention_check.js";
import { checkChunks } from "../attention_chunks.js";
import { makeInputs } from "../attention_inputs.js";

const device = openDevice("cpu");
afterAll(() => device.dispose());

/** Compares bits; far faster than toEqual on long arrays. */
function expectSameBits(actual: Float32Array, expected: Float32Array): void {
  const bytes = (x: Float32Array) => Buffer.from(x.buffer, x.byteOffset, x.byteLength);
  expect(actual.length).toBe(expected.length);
  expect(bytes(actual).equals(bytes(expected)), `bits differ; KVASIR_TEST_SEED=${runSeed}`).toBe(true);
}

const name = (c: AttentionCase): string =>
  Object.entries(c)
    .map(([key, value]) => `${key} ${value}`)
    .join(", ");

describe("agrees with the oracle", () => {
  test.each(pairwiseCases().map((c) => [name(c), c] as const))("%s", (_, c) => checkCase(device, device, c, runSeed));
  test.each(Object.entries(namedCases))("%s", (_, c) => checkCase(device, device, c, runSeed));
  test("long and square", () =>
    checkCase(
      device,
      device,
      { sq: 2048, sk: 2048, dtype: "bf16", headDim: 64, group: 1, kvHeads: 1, causal: true, alone: true },
      runSeed,
    ));
});

/** A device of a lesser instruction set; undefined where the machine does not have it. */
function withIsa(isa: string): Device | undefined {
  const before = process.env.KVASIR_ISA;
  process.env.KVASIR_ISA = isa;
  const lesser = openDevice("cpu", { threads: 2 });
  if (before === undefined) delete process.env.KVASIR_ISA;
  else process.env.KVASIR_ISA = before;
  if (lesser.describe().isa === isa) return lesser;
  lesser.dispose();
  return undefined;
}

describe.each(["portable", "avx2", "avx512", "avx512_bf16"])("every instruction set agrees: %s", (isa) => {
  const lesser = withIsa(isa);
  afterAll(() => lesser?.dispose());
  const cases = [...pairwiseCases().filter((c, i) => i % 9 === 0 && c.sq * c.sk < 2e5), ...Object.values(namedCases)];
  test.skipIf(lesser === undefined).each(cases.map((c) => [name(c), c] as const))("%s", (_, c) =>
    checkCase(lesser!, device, c, runSeed),
  );
});

describe("is deterministic", () => {
  const cases: AttentionCase[] = [
    { sq: 1, sk: 6000, dtype: "bf16", headDim: 128, group: 4, pageSize: 64, causal: true },
    { sq: 200, sk: 900, dtype: "f16", headDim: 80, group: 3, causal: true, windowLeft: 128 },
    { sq: 3, sk: 5000, dtype: "f32", headDim: 64, group: 8, numSplits: 11 },
  ];
  test.each(cases.map((c) => [name(c), c] as const))("over repeats: %s", async (_, c) => {
    const inputs = makeInputs(c, runSeed);
    const first = await runAttention(device, c, inputs);
    for (let repeat = 0; repeat < 60; repeat += 1) {
      const again = await runAttention(device, c, inputs);
      expectSameBits(again.out, first.out);
      expectSameBits(again.lse, first.lse);
    }
  });
});

describe("batchInvariant: the bits of a request depend on that request alone", () => {
  const shapes: AttentionCase[] = [
    { sq: 40, sk: 9000, dtype: "bf16", headDim: 64, group: 4, kvHeads: 2, causal: true },
    { sq: 1, sk: 9000, dtype: "f32", headDim: 128, group: 4, kvHeads: 2, causal: true },
    { sq: 333, sk: 700, dtype: "f16", headDim: 80, group: 3, kvHeads: 2, causal: true, windowLeft: 100 },
  ];

  /** Queries [begin, end) of the one request of `c`, as a call of their own, on `on`. */
  async function part(on: Device, c: AttentionCase, begin: number, end: number): Promise<Float32Array> {
    const { args, owned } = upload(on, c, makeInputs(c, runSeed));
    const qStart = on.tensor("i32", [1], [c.sk - c.sq + begin]);
    const out = args.out.slice(begin, end);
    const chunk: AttentionArgs = {
      ...args,
      q: args.q.slice(begin, end),
      out,
      lse: undefined,
      qoIndptr: undefined,
      qStart,
      batchInvariant: true,
    };
    attention(on.stream, chunk);
    const result = await out.readFloats();
    for (const tensor of [...owned, qStart, out]) tensor.dispose();
    return result;
  }

  test.each(shapes.map((c) => [name(c), { ...c, alone: true }] as const))("chunked as whole: %s", async (_, c) => {
    const whole = await part(device, c, 0, c.sq);
    const width = whole.length / c.sq;
    for (let begin = 0, size = 1; begin < c.sq; begin += size, size = 3 * size + 1) {
      const end = Math.min(c.sq, begin + size);
      expectSameBits(await part(device, c, begin, end), whole.slice(begin * width, end * width));
    }
  });

  test.each(shapes.map((c) => [name(c), { ...c, alone: true }] as const))("on any number of threads: %s", async (_, c) => {
    const whole = await part(device, c, 0, c.sq);
    for (const threads of [1, 5]) {
      using other = openDevice("cpu", { threads });
      expectSameBits(await part(other, c, 0, c.sq), whole);
    }
  });

  // The grid is CUDA's; some of it holds the same law here.
  const chunked = pairwiseChunkCases().filter((_, i) => i % 3 === 0);
  test.each(chunked.map((c) => [name(c), c] as const))("in any chunks: %s", (_, c) => checkChunks(device, c, runSeed, 4));

  test("alone as inside a batch of 64", async () => {
    const lens = Array.from({ length: 64 }, (_, i) => [1 + (i % 5), 20 + 37 * (i % 13)] as const);
    const heads = { q: 6, kv: 2, dim: 64 };
    const total = (i: 0 | 1) => lens.reduce((sum, len) => sum + len[i], 0);
    const inputs = makeInputs(
      { sq: total(0), sk: total(1), dtype: "bf16", headDim: 64, group: 3, kvHeads: 2, alone: true },
      runSeed,
    );
    const q = device.tensor("bf16", [total(0), heads.q, heads.dim], inputs.tensors.q!.data);
    const pad = 2 * heads.kv * heads.dim; // makeInputs puts two unused rows first
    const kv = ["k", "v"].map((side) => {
      const data = inputs.tensors[side]!.data as Float32Array;
      return device.tensor("bf16", [total(1), heads.kv, heads.dim], data.subarray(pad, pad + total(1) * heads.kv * heads.dim));
    });
    const ends = (i: 0 | 1) => lens.map((_, b) => lens.slice(0, b + 1).reduce((sum, len) => sum + len[i], 0));
    const [qo, kvEnds] = [
      [0, ...ends(0)],
      [0, ...ends(1)],
    ];
    const options = { causal: true, batchInvariant: true };
    const run = async (
      from: number,
      to: number,
      indptrs: Partial<AttentionArgs>,
      kFrom: number,
      kTo: number,
    ): Promise<Float32Array> => {
      using out = device.empty("bf16", [to - from, heads.q, heads.dim]);
      const [k, v] = kv.map((tensor) => tensor.slice(kFrom, kTo));
      attention(device.stream, { q: q.slice(from, to), k, v, out, ...indptrs, ...options });
      return out.readFloats();
    };
    using qoIndptr = device.tensor("i32", [65], qo);
    using kvIndptr = device.tensor("i32", [65], kvEnds);
    const batch = await run(0, total(0), { qoIndptr, kvIndptr }, 0, total(1));
    const width = heads.q * heads.dim;
    for (const b of [0, 7, 31, 63]) {
      const alone = await run(qo[b]!, qo[b + 1]!, {}, kvEnds[b]!, kvEnds[b + 1]!);
      expectSameBits(alone, batch.slice(qo[b]! * width, qo[b + 1]! * width));
    }
    for (const tensor of [q, ...kv]) tensor.dispose();
  });
});
