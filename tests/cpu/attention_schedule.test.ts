/** How the CPU shares attention among its threads: every cut of the line of key tiles against the oracle, and the promises about bits. */
import { afterAll, describe, expect, test } from "vitest";
import { attention, type Device, openDevice } from "../../lib/index.js";
import type { AttentionCase } from "../attention_cases.js";
import { checkCase, type Result, runAttention, runSeed, upload } from "../attention_check.js";
import { type Inputs, makeInputs } from "../attention_inputs.js";

const base: AttentionCase = {
  sq: 1,
  sk: 0,
  dtype: "bf16",
  headDim: 64,
  group: 4,
  kvHeads: 2,
  pageSize: 16,
  causal: true,
};
const batches: Readonly<Record<string, AttentionCase>> = {
  "empty requests first, between and last": { ...base, kvLens: [0, 0, 3000, 0, 1, 640, 0, 0, 64, 65, 0] },
  "nothing but empty requests": { ...base, kvLens: [0, 0, 0] },
  "one long, many short": { ...base, kvLens: [...Array.from({ length: 70 }, (_, i) => i % 9), 20000, 1, 2, 3] },
  "many more units than threads": { ...base, kvLens: Array.from({ length: 300 }, (_, i) => 1 + ((i * 53) % 200)) },
  "fewer units than threads": { ...base, kvLens: [1500], kvHeads: 1 },
  "units of one length": { ...base, kvLens: [1024, 1024, 1024, 1024] },
  "more rows than are streamed": { ...base, kvLens: [2000, 300, 0, 4100], sq: 40, headDim: 80, dtype: "f16" },
  "5 to 48 rows": { ...base, kvLens: [900, 700, 1300, 800], qoLens: [5, 12, 13, 48], group: 1, dtype: "f32" },
  "head_dim of no whole vector": { ...base, kvLens: [900, 33, 2100], sq: 2, headDim: 72 },
  "a window": { ...base, kvLens: [5000, 100, 3000], windowLeft: 700, sq: 3 },
};

const cpu = openDevice("cpu");
afterAll(() => cpu.dispose());

const bits = ({ out, lse }: Result): Buffer =>
  Buffer.concat([out, lse].map((part) => Buffer.from(part.buffer, part.byteOffset, part.byteLength)));

async function expectBits(device: Device, c: AttentionCase, inputs: Inputs, expected: Buffer, what: string): Promise<void> {
  const same = bits(await runAttention(device, c, inputs)).equals(expected);
  expect(same, `${what}; KVASIR_TEST_SEED=${runSeed}`).toBe(true);
}

describe.each([1, 2, 3, 7])("on %i threads", (threads) => {
  const device = openDevice("cpu", { threads });
  afterAll(() => device.dispose());

  test.each(Object.entries(batches))("agrees with the oracle: %s", (_, c) => checkCase(device, cpu, c, runSeed));
});

test.each(Object.entries(batches))("the same bits over 100 repeats, whichever thread did what: %s", async (_, c) => {
  using device = openDevice("cpu", { threads: 7 });
  const { args, owned } = upload(device, c, makeInputs(c, runSeed));
  let first: Buffer | undefined;
  for (let repeat = 0; repeat < 100; repeat += 1) {
    args.out.fill(0xff);
    attention(device.stream, args);
    const now = bits({ out: await args.out.readFloats(), lse: await args.lse!.readFloats() });
    first ??= now;
    expect(now.equals(first), `repeat ${repeat}; KVASIR_TEST_SEED=${runSeed}`).toBe(true);
  }
  for (const tensor of owned) tensor.dispose();
});

describe("batchInvariant", () => {
  test.each(Object.entries(batches))("the same bits on any number of threads: %s", async (_, c) => {
    const invariant = { ...c, batchInvariant: true };
    const inputs = makeInputs(invariant, runSeed);
    const first = bits(await runAttention(cpu, invariant, inputs));
    for (const threads of [1, 3, 8]) {
      using device = openDevice("cpu", { threads });
      await expectBits(device, invariant, inputs, first, `${threads} threads`);
    }
  });

  // 1 to 120 rows a unit take every kernel there is: their sums must run in one order.
  test.each([
    ["bf16", 64],
    ["bf16", 72],
    ["f16", 128],
    ["f32", 40],
  ] as const)("the same bits however many queries share a call: %s, head_dim %i", async (dtype, headDim) => {
    const rows = 120;
    const c: AttentionCase = {
      ...base,
      sk: 700,
      sq: rows,
      group: 1,
      kvHeads: 1,
      alone: true,
      dtype,
      headDim,
      batchInvariant: true,
    };
    const inputs = makeInputs({ ...c, pageSize: 0, causal: false }, runSeed);
    const whole = await runAttention(cpu, c, inputs);
    for (const count of [1, 2, 3, 4, 5, 7, 12, 13, 24, 25, 48, 49]) {
      const q = inputs.tensors.q!;
      const part: Inputs = {
        ...inputs,
        totalQ: count,
        tensors: {
          ...inputs.tensors,
          q: { ...q, shape: [count, 1, headDim], data: (q.data as Float32Array).slice(0, count * headDim) },
          qoIndptr: { dtype: "i32" as AttentionCase["dtype"], shape: [2], data: Int32Array.from([0, count]) },
        },
      };
      const expected = bits({ out: whole.out.slice(0, count * headDim), lse: whole.lse.slice(0, count) });
      await expectBits(cpu, c, part, expected, `${count} queries`);
    }
  });
});
