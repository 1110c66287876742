/** Attention on CUDA against the CPU's float64 oracle, over the same cases as the CPU, and what a recorded launch promises. */
import { afterAll, describe, expect, test } from "vitest";
import { append, attention, createPageTable, openDevice } from "../../lib/index.js";
import { type AttentionCase, namedCases, pairwiseCases, pairwiseChunkCases } from "../attention_cases.js";
import { checkCase, runAttention, runSeed } from "../attention_check.js";
import { checkChunks } from "../attention_chunks.js";
import { makeInputs } from "../attention_inputs.js";
import { onBackend } from "../device.js";

const name = (c: AttentionCase): string =>
  Object.entries(c)
    .map(([key, value]) => `${key} ${value}`)
    .join(", ");

onBackend("cuda", (device) => {
  const cpu = openDevice("cpu");
  afterAll(() => cpu.dispose());

  describe("agrees with the oracle", () => {
    test.each(pairwiseCases().map((c) => [name(c), c] as const))("%s", (_, c) => checkCase(device, cpu, c, runSeed));
    test.each(Object.entries(namedCases))("%s", (_, c) => checkCase(device, cpu, c, runSeed));
  });

  const repeated: AttentionCase[] = [
    { sq: 1, sk: 6000, dtype: "bf16", headDim: 128, group: 4, pageSize: 64, causal: true },
    { sq: 200, sk: 900, dtype: "f16", headDim: 80, group: 3, causal: true, windowLeft: 128 },
    { sq: 3, sk: 5000, dtype: "bf16", headDim: 64, group: 8, numSplits: 11 },
  ];
  test.each(repeated.map((c) => [name(c), c] as const))("the same bits over 60 repeats: %s", async (_, c) => {
    const inputs = makeInputs(c, runSeed);
    const first = await runAttention(device, c, inputs);
    for (let repeat = 0; repeat < 60; repeat += 1) expect((await runAttention(device, c, inputs)).out).toEqual(first.out);
  });

  describe("batchInvariant: bits do not depend on what shares the call", () => {
    test.each(pairwiseChunkCases().map((c) => [name(c), c] as const))("%s", (_, c) => checkChunks(device, c, runSeed, 12));

    const mixed: AttentionCase = { sq: 0, sk: 0, dtype: "bf16", headDim: 64, group: 4, kvHeads: 2, pageSize: 64, causal: true };
    // So many rows that only requests of few queries are shared out among CTAs.
    test.each([
      ["pages of 64", {}],
      ["pages of 16", { pageSize: 16, dtype: "f16" }],
      ["ragged, a window", { pageSize: 0, windowLeft: 2500 }],
    ] as const)("a long prefill among decodes of long contexts; %s", async (_, changed) => {
      const c = { ...mixed, ...changed, qoLens: [2, 4300, 1, 3, 0, 16, 1], kvLens: [700, 4300, 20_000, 5000, 40, 9000, 0] };
      await checkChunks(device, c, runSeed, 4);
    });

    test("many requests: each as alone", async () => {
      const kvLens = Array.from({ length: 300 }, (_, i) => (i % 29 === 0 ? 6000 + i : (i * 37) % 1100));
      await checkChunks(device, { ...mixed, sq: 1, kvLens, qoLens: kvLens.map((_, i) => i % 3) }, runSeed, 2);
    });
  });

  test("a recorded launch replayed with growing lengths equals eager calls", async () => {
    const [kvHeads, headDim, pageSize, heads] = [2, 64, 16, 8];
    const most = 300;
    const rows = [Array.from({ length: Math.ceil(most / pageSize) }, (_, i) => Math.ceil(most / pageSize) - 1 - i)];
    using table = createPageTable(device, { rows, kvLens: [0], pageSize, numPages: rows[0]!.length });
    using pages = device.empty("bf16", [rows[0]!.length, kvHeads * 2 * pageSize * headDim]);
    pages.fill(0xff); // NaN in every slot that is not written yet
    using pageOffsets = device.tensor(
      "i32",
      [kvHeads, 2],
      [0, 1, 2, 3].map((i) => i * pageSize * headDim * 2),
    );
    const random = (count: number): Float32Array => Float32Array.from({ length: count }, () => Math.random() * 2 - 1);
    using q = device.tensor("bf16", [1, heads, headDim], random(heads * headDim));
    using k = device.empty("bf16", [1, kvHeads, headDim]);
    using v = device.empty("bf16", [1, kvHeads, headDim]);
    using positions = device.zeros("i32", [1]);
    using slotMapping = device.zeros("i32", [1]);
    using recorded = device.empty("bf16", [1, heads, headDim]);
    using eager = device.empty("bf16", [1, heads, headDim]);
    const common = { q, pages, pageOffsets, pageSize, causal: true };
    using program = device.stream.program(() => attention(device.stream, { ...common, ...table, out: recorded }));
    for (let step = 0; step < most; step += 1) {
      const slot = rows[0]![Math.floor(step / pageSize)]! * pageSize + (step % pageSize);
      for (const tensor of [k, v]) tensor.write(random(kvHeads * headDim));
      positions.write(Int32Array.of(step));
      slotMapping.write(Int32Array.of(slot));
      table.kvLen.write(Int32Array.of(step + 1));
      append(device.stream, { k, v, positions, slotMapping, pages, pageOffsets, pageSize });
      device.stream.launch(program);
      attention(device.stream, { ...common, ...table, out: eager });
      if (step % 10 === 9) expect(await recorded.read()).toEqual(await eager.read());
    }
    expect((await recorded.readFloats()).every(Number.isFinite)).toBe(true);
  });
});
