/** Each rule of native/contracts, through the addon: one wrong argument, one sentence that names it. */
import { afterAll, describe, test } from "vitest";
import { type DType, type ErrorCode, type Stream, type Tensor, openDevice } from "../../lib/index.js";
import * as kvasir from "../../lib/index.js";
import { expectError } from "../expect_error.js";

const device = openDevice("cpu", { threads: 1 });
afterAll(() => device.dispose());

type Args = Record<string, Tensor | number | boolean>;
type Rule = [what: string, code: ErrorCode, parts: (string | RegExp)[], change: (args: Args) => Args];

const t = (dtype: DType, ...shape: number[]): Tensor => device.zeros(dtype, shape);
const f32 = (...shape: number[]): Tensor => t("f32", ...shape);
const i32 = (...shape: number[]): Tensor => t("i32", ...shape);
const without = (args: Args, ...names: string[]): Args =>
  Object.fromEntries(Object.entries(args).filter(([name]) => !names.includes(name)));
const set =
  (change: Args) =>
  (args: Args): Args => ({ ...args, ...change });

const SHAPE = "ERR_KVASIR_SHAPE";
const DTYPE = "ERR_KVASIR_DTYPE";
const INVALID = "ERR_KVASIR_INVALID_ARGUMENT";

function contract(name: string, op: (stream: Stream, args: never) => void, good: Args, rules: Rule[]): void {
  describe(name, () => {
    test("the base of the rules is accepted", async () => {
      op(device.stream, good as never);
      await device.stream.finished();
    });
    test.each(rules)("%s", (_, code, parts, change) => {
      expectError(code, parts, () => op(device.stream, change(good) as never));
    });
  });
}

const ragged: Args = { q: f32(6, 4, 64), k: f32(10, 2, 64), v: f32(10, 2, 64), out: f32(6, 4, 64) };
contract("attention, ragged", kvasir.attention, ragged, [
  ["neither k, v nor pages", INVALID, ["k and v are missing", "pages"], (a) => without(a, "k", "v")],
  ["k without v", INVALID, ["v is missing"], (a) => without(a, "v")],
  ["k, v and pages", INVALID, ["k and pages were both given"], set({ pages: f32(4, 4096) })],
  ["a table without pages", INVALID, ["kvLen belongs to paged KV"], set({ kvLen: i32(1) })],
  ["a page size without pages", INVALID, ["pageSize belongs to paged KV"], set({ pageSize: 16 })],
  ["per-head rows without pages", INVALID, ["perHeadRows belongs to paged KV"], set({ perHeadRows: true })],
  ["heads that do not divide", SHAPE, ["q[num_qo_heads] is 5", "multiple of 2"], set({ q: f32(6, 5, 64), out: f32(6, 5, 64) })],
  ["no KV heads", SHAPE, ["k[num_kv_heads] is 0"], set({ k: f32(10, 0, 64), v: f32(10, 0, 64) })],
  ["a head_dim of 60", SHAPE, ["q[head_dim] is 60", "multiple of 8 from 8 to 256"], set({ q: f32(6, 4, 60) })],
  ["a head_dim of 264", SHAPE, ["q[head_dim] is 264"], set({ q: f32(6, 4, 264) })],
  ["tokens of v", SHAPE, ["v[total_kv] is 9, expected 10, from k"], set({ v: f32(9, 2, 64) })],
  ["heads of out", SHAPE, ["out[num_qo_heads] is 2, expected 4, from q"], set({ out: f32(6, 2, 64) })],
  ["dtype of out", DTYPE, ["out is bf16, expected f32, from q"], set({ out: t("bf16", 6, 4, 64) })],
  ["dtype of lse", DTYPE, ["lse is f16, expected f32"], set({ lse: t("f16", 6, 4) })],
  ["shape of lse", SHAPE, ["lse[num_qo_heads] is 3, expected 4, from q"], set({ lse: f32(6, 3) })],
  ["dtype of qoIndptr", DTYPE, ["qoIndptr is f32, expected i32"], set({ qoIndptr: f32(2) })],
  [
    "index pointers that disagree",
    SHAPE,
    ["qoIndptr[batch + 1] is 4, expected 3, from kvIndptr"],
    set({ kvIndptr: i32(3), qoIndptr: i32(4) }),
  ],
  ["no request at all", SHAPE, ["kvIndptr describes 0 requests"], set({ kvIndptr: i32(1) })],
  ["an uneven split of queries", SHAPE, ["q[total_q] is 6, expected a multiple of 4", "qoIndptr"], set({ kvIndptr: i32(5) })],
  ["an uneven split of keys", SHAPE, ["k[total_kv] is 10, expected a multiple of 3", "kvIndptr"], set({ qoIndptr: i32(4) })],
  [
    "a start for another batch",
    SHAPE,
    ["qStart[batch] is 2, expected 1, from kvIndptr"],
    set({ kvIndptr: i32(2), qStart: i32(2) }),
  ],
  ["weights of another length", SHAPE, ["logWeight[total_kv] is 11, expected 10, from k"], set({ logWeight: f32(11) })],
  ["weights for other heads", SHAPE, ["logWeight[num_kv_heads] is 4, expected 2, from k"], set({ logWeight: f32(10, 4) })],
  ["sinks for other heads", SHAPE, ["sink[num_qo_heads] is 2, expected 4, from q"], set({ sink: f32(2) })],
  ["too many frequencies", SHAPE, ["kInvFreq[rotary_dim / 2] is 33", "1 to 32"], set({ kInvFreq: f32(33) })],
  ["an infinite RoPE scale", INVALID, ["kRopeScale is inf", "finite"], set({ kRopeScale: Number.POSITIVE_INFINITY })],
  ["a window below -1", INVALID, ["windowLeft is -2"], set({ windowLeft: -2 })],
  ["negative splits", INVALID, ["numSplits is -1"], set({ numSplits: -1 })],
  [
    "rows off 16 bytes",
    SHAPE,
    ["q has stride 66", "16 bytes"],
    set({ q: f32(4096).view({ shape: [6, 4, 64], strides: [264, 66, 1] }) }),
  ],
  ["a start off 16 bytes", SHAPE, ["q starts 4 bytes past", "16"], set({ q: f32(4096).view({ offset: 1, shape: [6, 4, 64] }) })],
  ["out over q", INVALID, ["out overlaps q"], (a) => ({ ...a, out: a.q as Tensor })],
]);

const paged: Args = {
  q: f32(4, 4, 64),
  out: f32(4, 4, 64),
  pages: f32(3, 2 * 2 * 16 * 64),
  pageOffsets: device.tensor("i32", [2, 2], [0, 4096, 8192, 12288]),
  rowStart: i32(2),
  kvLen: i32(2),
  pageIndices: i32(5),
  pageSize: 16,
};
contract("attention, paged", kvasir.attention, paged, [
  ["an incomplete table", INVALID, ["rowStart is missing", "pageIndices"], (a) => without(a, "rowStart")],
  ["ragged lengths", INVALID, ["kvIndptr belongs to ragged KV", "kvLen"], set({ kvIndptr: i32(3) })],
  ["no page size", INVALID, ["pageSize is 0", "16 to 256"], (a) => without(a, "pageSize")],
  ["a page size of 24", INVALID, ["pageSize is 24"], set({ pageSize: 24 })],
  ["a page size of 512", INVALID, ["pageSize is 512"], set({ pageSize: 512 })],
  ["pages smaller than one head", SHAPE, ["pages[elements_per_page] is 512", "1024"], set({ pages: f32(3, 512) })],
  [
    "pages off 16 bytes",
    SHAPE,
    ["pages has stride 4098"],
    set({ pages: f32(5 * 4098).view({ shape: [3, 4096], strides: [4098, 1] }) }),
  ],
  ["dtype of pages", DTYPE, ["pages is bf16, expected f32, from q"], set({ pages: t("bf16", 3, 4096) })],
  ["offsets not in pairs", SHAPE, ["pageOffsets[k|v] is 3, expected 2"], set({ pageOffsets: i32(2, 3) })],
  ["heads that do not divide", SHAPE, ["q[num_qo_heads] is 4", "multiple of 3"], set({ pageOffsets: i32(3, 2) })],
  ["rows that disagree", SHAPE, ["kvLen[rows] is 3, expected 2, from rowStart"], set({ kvLen: i32(3) })],
  ["entries that disagree", SHAPE, ["pageLen[entries] is 4, expected 5, from pageIndices"], set({ pageLen: i32(4) })],
  ["weights of other entries", SHAPE, ["logWeight[entries * page_size] is 79, expected 80"], set({ logWeight: f32(79) })],
  [
    "per-head rows that do not divide",
    SHAPE,
    ["kvLen[rows] is 3", "multiple of 2 with perHeadRows"],
    set({ perHeadRows: true, rowStart: i32(3), kvLen: i32(3) }),
  ],
  [
    "an uneven split of queries",
    SHAPE,
    ["q[total_q] is 5, expected a multiple of 2", "kvLen"],
    set({ q: f32(5, 4, 64), out: f32(5, 4, 64) }),
  ],
]);

contract("merge", kvasir.merge, { parts: f32(2, 3, 4, 64), partsLse: f32(2, 3, 4), out: t("bf16", 3, 4, 64) }, [
  ["no parts", SHAPE, ["parts[num_parts] is 0"], set({ parts: f32(0, 3, 4, 64), partsLse: f32(0, 3, 4) })],
  ["lse of other parts", SHAPE, ["partsLse[num_parts] is 3, expected 2, from parts"], set({ partsLse: f32(3, 3, 4) })],
  [
    "parts of a third dtype",
    DTYPE,
    ["parts is f16, expected f32 or the dtype of out, bf16"],
    set({ parts: t("f16", 2, 3, 4, 64) }),
  ],
]);

const rows = { positions: i32(3), slotMapping: i32(3) };
const appendArgs: Args = {
  k: f32(3, 2, 64),
  v: f32(3, 2, 64),
  ...rows,
  pages: f32(3, 4096),
  pageOffsets: paged.pageOffsets as Tensor,
  pageSize: 16,
};
contract("append", kvasir.append, appendArgs, [
  ["q without frequencies", INVALID, ["q was given without invFreq"], set({ q: f32(3, 4, 64) })],
  ["positions of other tokens", SHAPE, ["positions[total] is 4, expected 3, from k"], set({ positions: i32(4) })],
  ["slots as floats", DTYPE, ["slotMapping is f32, expected i32"], set({ slotMapping: f32(3) })],
  ["offsets of other heads", SHAPE, ["pageOffsets[num_kv_heads] is 1, expected 2, from k"], set({ pageOffsets: i32(1, 2) })],
  ["too many frequencies", SHAPE, ["invFreq[rotary_dim / 2] is 40"], set({ invFreq: f32(40) })],
  ["a NaN scale", INVALID, [/ropeScale is -?nan/i], set({ ropeScale: Number.NaN })],
]);

contract("rope", kvasir.rope, { x: f32(3, 2, 64), positions: i32(3), invFreq: f32(32) }, [
  ["positions of other tokens", SHAPE, ["positions[total] is 2, expected 3, from x"], set({ positions: i32(2) })],
  ["no frequencies", SHAPE, ["invFreq[rotary_dim / 2] is 0"], set({ invFreq: f32(0) })],
]);

contract("rmsNorm", kvasir.rmsNorm, { x: f32(3, 8), weight: f32(8), out: f32(3, 8) }, [
  ["eps below 0", INVALID, ["eps is -1", "1e-5"], set({ eps: -1 })],
  ["a weight of another width", SHAPE, ["weight[hidden] is 9, expected 8, from x"], set({ weight: f32(9) })],
  ["residual over x", INVALID, ["residual overlaps x"], (a) => ({ ...a, residual: a.x as Tensor })],
  [
    "out over part of x",
    INVALID,
    ["out overlaps x in part"],
    () => {
      const both = f32(4, 8);
      return { x: both.slice(0, 3), weight: f32(8), out: both.slice(1, 4) };
    },
  ],
]);

contract("siluMul", kvasir.siluMul, { gate: f32(3, 8), up: f32(3, 8), out: f32(3, 8) }, [
  ["up of another width", SHAPE, ["up[width] is 7, expected 8, from gate"], set({ up: f32(3, 7) })],
]);

contract("embedding", kvasir.embedding, { ids: i32(3), table: f32(5, 8), out: f32(3, 8) }, [
  ["an empty table", SHAPE, ["table[vocab] is 0"], set({ table: f32(0, 8) })],
  ["ids as floats", DTYPE, ["ids is f32, expected i32"], set({ ids: f32(3) })],
]);

contract("linear", kvasir.linear, { x: f32(3, 8), weight: f32(5, 8), out: f32(3, 5) }, [
  ["a weight the other way round", SHAPE, ["weight[in_features] is 5, expected 8, from x"], set({ weight: f32(8, 5) })],
  ["a bias of another width", SHAPE, ["bias[out_features] is 8, expected 5, from weight"], set({ bias: f32(8) })],
  ["out of a third dtype", DTYPE, ["out is bf16, expected f32 or the dtype of x, f32"], set({ out: t("bf16", 3, 5) })],
]);

contract("argmax", kvasir.argmax, { logits: f32(3, 8), out: i32(3) }, [
  ["an empty vocabulary", SHAPE, ["logits[vocab] is 0"], set({ logits: f32(3, 0) })],
  ["out as floats", DTYPE, ["out is f32, expected i32"], set({ out: f32(3) })],
]);

contract("sample", kvasir.sample, { logits: f32(3, 8), out: i32(3) }, [
  ["one temperature for all", SHAPE, ["temperature[rows] is 1, expected 3, from logits"], set({ temperature: f32(1) })],
  ["topK as floats", DTYPE, ["topK is f32, expected i32"], set({ topK: f32(3) })],
]);

const table: Args = {
  kvLen: i32(2),
  rowStart: i32(2),
  pageIndices: i32(4),
  positions: i32(2),
  slotMapping: i32(2),
  pageSize: 16,
};
contract("advance", kvasir.advance, table, [
  ["a page size of 8", INVALID, ["pageSize is 8"], set({ pageSize: 8 })],
  ["rows that disagree", SHAPE, ["active[rows] is 3, expected 2, from kvLen"], set({ active: i32(3) })],
  ["positions over kvLen", INVALID, ["kvLen overlaps positions"], (a) => ({ ...a, positions: a.kvLen as Tensor })],
]);

contract("crossEntropy", kvasir.crossEntropy, { logits: f32(3, 8), targets: i32(3), nll: f32(3) }, [
  ["targets of other rows", SHAPE, ["targets[rows] is 2, expected 3, from logits"], set({ targets: i32(2) })],
]);

contract("compareLogits", kvasir.compareLogits, { reference: f32(3, 8), logits: t("bf16", 3, 8), kl: f32(3), agree: i32(3) }, [
  ["another vocabulary", SHAPE, ["logits[vocab] is 9, expected 8, from reference"], set({ logits: f32(3, 9) })],
]);

contract("cast", kvasir.cast, { x: f32(3, 8), out: t("bf16", 3, 8) }, [
  ["integers to floats", DTYPE, ["out is f32, expected i32"], set({ x: i32(3, 8), out: f32(3, 8) })],
  ["another rank", SHAPE, ["out has rank 1, expected 2, from x"], set({ out: f32(24) })],
  ["another shape", SHAPE, ["out[dimension 1] is 7, expected 8, from x"], set({ out: f32(3, 7) })],
]);

test("columns of one fused buffer do not overlap", async () => {
  const fused = f32(3, 24);
  const columns = (first: number): Tensor => fused.view({ offset: first, shape: [3, 8], strides: [24, 1] });
  kvasir.siluMul(device.stream, { gate: columns(0), up: columns(8), out: columns(16) });
  kvasir.siluMul(device.stream, { gate: columns(0), up: columns(8), out: columns(0) });
  expectError(INVALID, ["out overlaps up in part"], () =>
    kvasir.siluMul(device.stream, { gate: columns(0), up: columns(8), out: columns(12) }),
  );
  await device.stream.finished();
});

test("a misspelt setting of a smaller op", () => {
  expectError("ERR_KVASIR_UNKNOWN_OPTION", ["rms_norm", "epsilon", "eps"], () =>
    kvasir.rmsNorm(device.stream, { x: f32(1, 8), weight: f32(8), out: f32(1, 8), epsilon: 1 } as never),
  );
});
