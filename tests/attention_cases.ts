/** Which attention calls the suites of both backends check: a pairwise sample of the grid, and what a call is made of. */
import type { DType } from "../lib/index.js";

export interface AttentionCase {
  /** Queries and keys of the request under test; it runs between two small ones. */
  sq: number;
  sk: number;
  dtype: DType;
  headDim: number;
  group: number;
  /** 1 or more; 2 by default for small groups. */
  kvHeads?: number;
  causal?: boolean;
  windowLeft?: number;
  softCap?: number;
  /** 0: ragged. */
  pageSize?: number;
  /** Standard deviation of q; 1 by default. */
  qScale?: number;
  /** All keys alike, so that all logits of a row are equal. */
  equalKeys?: boolean;
  /** A logit for every head, or random ones. */
  sink?: number | "random";
  /** Per-key weights, some of them -Infinity; ragged ones also per KV head. */
  logWeight?: "key" | "key_and_head";
  /** Paged: each KV head has its own row, of its own length. */
  perHeadRows?: boolean;
  /** Paged: entries with explicit positions and holes. */
  holes?: boolean;
  /** Position of the first query, for every request. */
  qStart?: number;
  /** Keys are stored before RoPE; rotary_dim is this share of head_dim. */
  rotary?: number;
  /** q lies in a wider tensor. */
  stridedQ?: boolean;
  numSplits?: number;
  batchInvariant?: boolean;
  /** Results are f32, of inputs that are not. */
  out?: "f32";
  /** The only request of the call. */
  alone?: boolean;
  /** Keys of every request of the call, instead of `sk` between two small ones; each has `sq` queries and there is no qoIndptr. */
  kvLens?: readonly number[];
  /** With kvLens: queries of every request, by qoIndptr. */
  qoLens?: readonly number[];
}

/** (sq, sk) of the grid: small, ragged against every tile size, longer q than k. */
export const lengths: readonly (readonly [number, number])[] = [
  [1, 1],
  [1, 3],
  [2, 1],
  [3, 513],
  [1, 128],
  [1, 339],
  [3, 799],
  [3, 1024],
  [16, 2000],
  [64, 128],
  [64, 800],
  [128, 192],
  [256, 256],
  [239, 1],
  [799, 3],
  [511, 1],
  [307, 256],
  [113, 203],
  [113, 128],
  [128, 217],
  [113, 211],
  [108, 256],
  [256, 512],
  [384, 256],
  [640, 128],
  [512, 256],
  [1024, 1024],
  [1023, 1024],
  [1024, 1023],
];

const masks = [{}, { causal: true }, { causal: true, windowLeft: 64 }, { windowLeft: 128 }] as const;
const factors: readonly (readonly Partial<AttentionCase>[])[] = [
  lengths.map(([sq, sk]) => ({ sq, sk })),
  (["f32", "f16", "bf16"] as const).map((dtype) => ({ dtype })),
  [64, 80, 96, 128, 192, 256].map((headDim) => ({ headDim })),
  masks,
  [0, 15, 30].map((softCap) => ({ softCap })),
  [1, 3, 4, 5, 7, 8, 12, 16].map((group) => ({ group })),
  [0, 16, 64, 256].map((pageSize) => ({ pageSize })),
];

/** A small deterministic generator (mulberry32); uniform in [0, 1). */
export function random(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The grid of decode: few queries, every group, and lengths around page and tile borders. */
const decodeFactors: typeof factors = [
  Array.from({ length: 16 }, (_, i) => ({ sq: i + 1 })),
  [5, 63, 64, 257, 640, 1500].map((sk) => ({ sk })),
  (["f16", "bf16"] as const).map((dtype) => ({ dtype })),
  [64, 96, 128, 192, 256].map((headDim) => ({ headDim })),
  [{ causal: true }, { causal: true, windowLeft: 70 }, {}],
  [0, 20].map((softCap) => ({ softCap })),
  [1, 2, 3, 4, 5, 7, 8, 12, 16].map((group) => ({ group })),
  [0, 16, 64, 256].map((pageSize) => ({ pageSize })),
];

/** The grid of batch invariance: a causal request whose last queries are cut in chunks, around the borders where backends cut sums. */
const chunkFactors: typeof factors = [
  [1, 2, 63, 500, 959, 960, 961, 1919, 1920, 1921, 2881, 4095, 4096, 4097, 5760, 8193, 12_289, 20_000].map((sk) => ({
    sk,
    sq: Math.min(sk, 520),
  })),
  (["f32", "f16", "bf16"] as const).map((dtype) => ({ dtype })),
  [64, 80, 96, 128, 192, 256].map((headDim) => ({ headDim })),
  [{}, { windowLeft: 50 }, { windowLeft: 3000 }],
  [1, 4, 7].map((group) => ({ group, kvHeads: group === 4 ? 2 : 1 })),
  [0, 16, 64].map((pageSize) => ({ pageSize })),
  [{}, { sink: "random" }, { softCap: 20, qScale: 8 }, { logWeight: "key" }, { rotary: 1 }],
];

export const pairwiseCases = (): AttentionCase[] => pairwise(factors);
export const pairwiseChunkCases = (): AttentionCase[] => pairwise(chunkFactors).map((c) => ({ ...c, causal: true }));
export const pairwiseDecodeCases = (): AttentionCase[] => pairwise(decodeFactors);

/**
 * A fixed sample of a grid in which every two values of two factors meet at least once: each new case is the best of some random ones,
 * by the number of new meetings.
 */
function pairwise(grid: typeof factors): AttentionCase[] {
  const draw = random(1);
  const missing = new Set<string>();
  const meeting = (a: number, i: number, b: number, j: number): string => `${a}.${i} ${b}.${j}`;
  const meetings = (choice: readonly number[]): string[] =>
    choice.flatMap((i, a) => choice.slice(a + 1).map((j, k) => meeting(a, i, a + 1 + k, j)));
  for (const [a, first] of grid.entries()) {
    for (const [k, second] of grid.slice(a + 1).entries()) {
      for (const i of first.keys()) for (const j of second.keys()) missing.add(meeting(a, i, a + 1 + k, j));
    }
  }
  const cases: AttentionCase[] = [];
  while (missing.size > 0) {
    let best: { choice: number[]; news: string[] } = { choice: [], news: [] };
    const [wanted] = missing;
    const fixed = new Map(wanted!.split(" ").map((part) => part.split(".").map(Number) as [number, number]));
    for (let attempt = 0; attempt < 40; attempt += 1) {
      const choice = grid.map((values, a) => fixed.get(a) ?? Math.floor(draw() * values.length));
      const news = meetings(choice).filter((pair) => missing.has(pair));
      if (news.length > best.news.length) best = { choice, news };
    }
    for (const pair of best.news) missing.delete(pair);
    cases.push(Object.assign({}, ...best.choice.map((value, a) => grid[a]![value])) as AttentionCase);
  }
  return cases;
}

const base: AttentionCase = { sq: 33, sk: 150, dtype: "bf16", headDim: 64, group: 4, causal: true };

/** What the grid does not reach, by name. */
export const namedCases: Readonly<Record<string, AttentionCase>> = {
  "no keys": { ...base, sk: 0, pageSize: 64 },
  "no keys, ragged": { ...base, sk: 0 },
  "no queries": { ...base, sq: 0, pageSize: 16 },
  "more queries than keys, causal": { ...base, sq: 150, sk: 33, pageSize: 16 },
  "logits to 1e4": { ...base, dtype: "f32", qScale: 1200 },
  "logits to 1e4, decode": { ...base, sq: 1, sk: 700, dtype: "f32", qScale: 1200, pageSize: 64 },
  "equal logits": { ...base, dtype: "f16", equalKeys: true, pageSize: 16 },
  "random sinks": { ...base, sink: "random", pageSize: 64 },
  "sinks that take all": { ...base, dtype: "f32", sink: 1e4 },
  "sinks that take nothing": { ...base, dtype: "f32", sink: -1e4 },
  "sinks of -Infinity": { ...base, sq: 1, sink: Number.NEGATIVE_INFINITY },
  "sinks of a decode in splits": { ...base, sq: 1, sk: 3000, sink: "random", numSplits: 5, pageSize: 64 },
  "weights by key": { ...base, logWeight: "key", dtype: "f16" },
  "weights by key and head": { ...base, logWeight: "key_and_head", kvHeads: 3 },
  "weights by key, paged": { ...base, logWeight: "key", pageSize: 16 },
  "weights by key, decode": { ...base, logWeight: "key", sq: 1, sk: 900, dtype: "f32", pageSize: 64, softCap: 20 },
  "rows per head": { ...base, perHeadRows: true, kvHeads: 3, pageSize: 16 },
  "rows per head, decode": { ...base, perHeadRows: true, kvHeads: 3, sq: 1, sk: 500, pageSize: 64, dtype: "f16" },
  "explicit positions and holes": { ...base, holes: true, pageSize: 16, qStart: 120 },
  "explicit positions, window": { ...base, holes: true, pageSize: 64, windowLeft: 50, qStart: 100, dtype: "f32" },
  "explicit positions, decode": {
    ...base,
    holes: true,
    pageSize: 64,
    sq: 1,
    sk: 1000,
    qStart: 5000,
    perHeadRows: true,
    kvHeads: 2,
  },
  "keys before RoPE": { ...base, rotary: 1, pageSize: 64 },
  "keys before RoPE, f32, far out": { ...base, rotary: 0.5, dtype: "f32", sk: 2500, sq: 3 },
  "keys before RoPE, decode": { ...base, rotary: 1, dtype: "f16", sq: 1, sk: 1500, pageSize: 16, headDim: 128 },
  "queries ahead of the keys": { ...base, qStart: 400, windowLeft: 300, pageSize: 16 },
  "queries before all keys": { ...base, qStart: -200 },
  "strided queries": { ...base, stridedQ: true, dtype: "f16", headDim: 96 },
  "asked-for splits": { ...base, numSplits: 7, sk: 1500, pageSize: 16, dtype: "f32" },
  "splits over queries that see little": { ...base, numSplits: 9, sk: 700, sq: 700, windowLeft: 20, dtype: "f16" },
  "odd head_dim": { ...base, headDim: 72, dtype: "f16", pageSize: 16 },
  "smallest head_dim": { ...base, headDim: 8, dtype: "bf16", sq: 2 },
  "one group of 32": { ...base, group: 32, kvHeads: 1, sq: 2 },
  "f32 results": { ...base, out: "f32", sq: 100, sk: 300, pageSize: 16 },
  "f32 results, decode": { ...base, out: "f32", sq: 1, sk: 3000, headDim: 128, pageSize: 64 },
  "f32 results, many splits": { ...base, out: "f32", sq: 40, sk: 2000, dtype: "f16", numSplits: 9, sink: "random" },
  "f32 results, few splits": { ...base, out: "f32", sq: 1, sk: 900, numSplits: 3, headDim: 96 },
  "f32 results, odd head_dim": { ...base, out: "f32", headDim: 72, dtype: "f16" },
  "f32 results, batch invariant": { ...base, out: "f32", batchInvariant: true, sk: 3000, sq: 5, pageSize: 64 },
  "f32 results, batch invariant, many queries": { ...base, out: "f32", batchInvariant: true, sk: 2000, sq: 300, numSplits: 1 },
  "batch invariant": { ...base, batchInvariant: true, sk: 9000, sq: 5, pageSize: 64 },
  "batch invariant, window": { ...base, batchInvariant: true, sk: 9000, sq: 300, windowLeft: 4500, dtype: "f32", group: 1 },
};

/** `count` lengths of a lognormal spread about `median`, the same ones every time. */
function spread(count: number, median: number, seed: number): number[] {
  const draw = random(seed);
  const normal = () => Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw());
  return Array.from({ length: count }, () => Math.floor(median * Math.exp(normal())));
}

const decode = (kvLens: readonly number[], changed: Partial<AttentionCase> = {}): AttentionCase => ({
  sq: 1,
  sk: Math.max(...kvLens),
  kvLens,
  dtype: "bf16",
  headDim: 128,
  group: 4,
  kvHeads: 2,
  pageSize: 64,
  causal: true,
  ...changed,
});

/** Requests of no tokens at both ends and between others. */
const gaps: readonly number[] = [0, 0, 900, 0, 3, 64, 0, 0, 0, 2500, 130, 0];

/** Decode over batches: lengths that no two workers share evenly, and every option on them. */
export const decodeBatches: Readonly<Record<string, AttentionCase>> = {
  "one request": decode([1777], { kvHeads: 1 }),
  "3 requests": decode([700, 1, 2049], { group: 7, dtype: "f16" }),
  "65 requests": decode(spread(65, 200, 5), { pageSize: 16 }),
  "65 requests, ragged": decode(spread(65, 200, 6), { pageSize: 0, group: 5, headDim: 64 }),
  "65 requests of one length": decode(new Array<number>(65).fill(192), { headDim: 256, group: 2, dtype: "f16" }),
  "4096 requests": decode(spread(4096, 12, 7), { pageSize: 16, headDim: 64, group: 2, kvHeads: 1 }),
  "4096 requests, all but one of them empty": decode(
    Array.from({ length: 4096 }, (_, i) => (i === 2222 ? 3000 : 0)),
    { headDim: 64, group: 4, kvHeads: 1 },
  ),
  "one huge and many tiny": decode([...spread(20, 8, 8), 20_000, ...spread(20, 8, 9)], { dtype: "f16", kvHeads: 1 }),
  "no keys at all": decode([0, 0, 0], { pageSize: 16 }),
  "no keys at all, ragged": decode([0, 0, 0, 0, 0], { pageSize: 0, sq: 4, group: 5 }),
  "empty between others": decode(gaps, { pageSize: 16 }),
  "empty between others, ragged, 4 queries": decode(gaps, { pageSize: 0, sq: 4, group: 3, headDim: 192 }),
  "empty between others, 16 queries of group 16": decode(gaps, { sq: 16, group: 16, kvHeads: 1, headDim: 64 }),
  "1 to 16 queries": decode(spread(24, 300, 10), { qoLens: Array.from({ length: 24 }, (_, i) => (7 * i) % 17), group: 5 }),
  "logits to 1e4": decode(gaps, { qScale: 2500, dtype: "f16", sq: 2 }),
  "logits to 1e4, bf16, ragged": decode(gaps, { qScale: 2500, pageSize: 0, group: 12, kvHeads: 1 }),
  "equal logits": decode(gaps, { equalKeys: true, group: 8, kvHeads: 1, headDim: 256 }),
  "a window": decode(spread(30, 800, 11), { windowLeft: 300, pageSize: 16 }),
  "a window of the token itself": decode(gaps, { windowLeft: 0, sq: 3, dtype: "f16" }),
  "a window, ragged, 8 queries": decode(gaps, { windowLeft: 100, pageSize: 0, sq: 8, headDim: 96 }),
  sinks: decode(gaps, { sink: "random", sq: 2, group: 5 }),
  "sinks that take all": decode(gaps, { sink: 1e4, dtype: "f16", pageSize: 16 }),
  "a soft cap": decode(gaps, { softCap: 15, qScale: 30, sq: 4, headDim: 64 }),
  weights: decode(gaps, { logWeight: "key", sq: 2, pageSize: 16 }),
  "weights by head, ragged": decode(gaps, { logWeight: "key_and_head", pageSize: 0, group: 7 }),
  "rows per head": decode(gaps, { perHeadRows: true, kvHeads: 3, sq: 2, dtype: "f16" }),
  "rows per head, weights, window": decode(gaps, {
    perHeadRows: true,
    kvHeads: 2,
    logWeight: "key",
    windowLeft: 700,
    pageSize: 16,
  }),
  "explicit positions and holes": decode(gaps, { holes: true, qStart: 1500, pageSize: 16, sq: 4 }),
  "explicit positions, rows per head, sinks": decode(gaps, {
    holes: true,
    qStart: 3000,
    perHeadRows: true,
    kvHeads: 2,
    sink: "random",
    group: 12,
  }),
  "keys before RoPE": decode(gaps, { rotary: 1, dtype: "f16", group: 3 }),
  everything: decode(gaps, {
    sq: 3,
    softCap: 30,
    sink: "random",
    logWeight: "key",
    windowLeft: 1000,
    perHeadRows: true,
    kvHeads: 2,
  }),
  "batch invariant": decode(gaps, { batchInvariant: true, sq: 2 }),
  "asked-for splits": decode(gaps, { numSplits: 5, pageSize: 16 }),
  "f32 results": decode(gaps, { out: "f32", sq: 2, sink: "random" }),
  "f32 results, ragged, asked-for splits": decode(gaps, { out: "f32", dtype: "f16", pageSize: 0, numSplits: 3 }),
  "32-bit floats": decode(gaps, { dtype: "f32", sq: 2, group: 5 }),
};
