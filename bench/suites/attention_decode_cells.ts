/** What the decode suite measures, as data: batches of every shape, and what each is to reach. */
import { type Backend, type DType, dtypeBytes } from "../../lib/index.js";
import { normals } from "../data.js";
import type { Bound } from "../results.js";

/** Two cells' rates (GB/s) or times, this cell's over the other's. */
interface Comparison {
  id: string;
  quantity: "rate" | "time";
  bound: Bound;
}

export interface DecodeCell {
  /** group/shape */
  id: string;
  group: string;
  dtype: DType;
  /** Tokens of each request. */
  lens: readonly number[];
  qoLen: number;
  qoHeads: number;
  kvHeads: number;
  headDim: number;
  /** Pages lie shuffled; without a size, k and v are contiguous tensors. */
  pageSize?: number;
  /** Bounds of the median time, of the share of read bandwidth, and of our time over the fastest peer's. */
  us?: Bound;
  share?: Bound;
  overPeer?: Bound;
  against?: Comparison;
  /** Fixed split counts are timed as well. */
  sweep: boolean;
}

/** All requests of one length: what peers can be given. */
export const isUniform = ({ lens }: DecodeCell): boolean => lens.every((length) => length === lens[0]);

export const sumOf = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

export const kvBytes = ({ lens, kvHeads, headDim, dtype }: DecodeCell): number =>
  2 * sumOf(lens) * kvHeads * headDim * dtypeBytes[dtype];

export const same = (count: number, length: number): number[] => new Array<number>(count).fill(length);

/** Lognormal lengths, scaled so that their mean is `mean`. */
export function lognormalLengths(count: number, mean: number, sigma: number, seed: number): number[] {
  const raw = Array.from(normals(count, seed), (z) => Math.exp(sigma * z));
  const scale = (mean * count) / sumOf(raw);
  return raw.map((x) => Math.max(1, Math.round(scale * x)));
}

function makeCell(group: string, lens: readonly number[], shape: Partial<DecodeCell> = {}, name?: string): DecodeCell {
  const cell = { group, lens, dtype: "bf16" as const, qoLen: 1, qoHeads: 32, kvHeads: 8, headDim: 128, sweep: false, ...shape };
  const { dtype, qoLen, qoHeads, kvHeads, headDim, pageSize } = cell;
  const layout = pageSize === undefined ? "contiguous" : `p${pageSize}`;
  const batch = name ?? `b${lens.length} k${lens[0]}`;
  return { id: `${group}/${batch} q${qoLen} ${qoHeads}/${kvHeads} d${headDim} ${dtype} ${layout}`, ...cell };
}

/** A ragged batch and, before it, the batch of as many requests that share its bytes equally; "uniform" says which share they miss. */
function raggedPair(name: string, lens: readonly number[], shape: Partial<DecodeCell>): DecodeCell[] {
  const length = Math.round(sumOf(lens) / lens.length);
  const even = makeCell("uniform", same(lens.length, length), shape, `${name} as b${lens.length} k${length}`);
  const { overPeer: _, ...rest } = shape;
  return [
    even,
    makeCell("ragged", lens, { ...rest, against: { id: even.id, quantity: "rate", bound: { at_least: 0.9 } } }, name),
  ];
}

const LONGEST = 131072;

/** Factors of 2^20 tokens of one head: 512 MiB of bf16 keys and values. */
const NARROW_TOKENS = 2 ** 20;
export const narrowHeads = [1, 2, 3, 5, 7, 11, 13] as const;

function cudaCells(): DecodeCell[] {
  const swept = { pageSize: 64, sweep: true, overPeer: { at_most: 1.02 } };
  const single = { pageSize: 64, overPeer: { at_most: 1.02 } };
  const long = makeCell("length", same(1, LONGEST), { ...swept, share: { at_least: 0.95 } });
  const middle = makeCell("length", same(1, 32768), { ...swept, us: { at_most: 50 } });
  const wide = makeCell("batch", same(16, 8192), { ...swept, share: { at_least: 0.95 } });
  const cells = [
    makeCell("length", same(1, 1024), { ...swept, us: { at_most: 9 } }),
    makeCell("length", same(1, 4096), { ...swept, us: { at_most: 12 } }),
    makeCell("length", same(1, 8192), { ...swept, us: { at_most: 15 } }),
    middle,
    long,
    makeCell("length", same(1, 524288), { ...swept, share: { at_least: 0.98 } }),
    wide,
    makeCell("batch", same(64, 8192), { ...swept, share: { at_least: 0.95 } }),
    makeCell("batch", same(32, 32768), { ...swept, share: { at_least: 0.98 } }),
  ];
  const heads = { ...swept, share: { at_least: 0.92 } };
  cells.push(
    makeCell("heads", same(16, 4096), { ...heads, kvHeads: 32 }),
    makeCell("heads", same(32, 32768), { ...heads, qoHeads: 8, kvHeads: 1 }),
    makeCell("heads", same(32, 8192), { ...heads, qoHeads: 64, headDim: 64 }),
    makeCell("heads", same(8, 16384), { ...heads, qoHeads: 16, headDim: 256 }),
  );
  for (const group of [5, 7, 12, 16])
    cells.push(makeCell("group", same(8, 16384), { ...swept, qoHeads: 8 * group, share: { at_least: 0.9 } }));
  cells.push(
    makeCell("dtype", same(16, 8192), { ...single, dtype: "f16" }),
    makeCell("dim", same(16, 8192), { ...single, headDim: 96 }),
    makeCell("dim", same(8, 16384), { ...single, headDim: 192 }),
    ...raggedPair("63x1024+1x131072", [...same(63, 1024), LONGEST], swept),
    ...raggedPair("lognormal64", lognormalLengths(64, 8192, 1.5, 7), swept),
    ...raggedPair(
      "32x8192+32x0",
      Array.from({ length: 64 }, (_, i) => (i % 2) * 8192),
      swept,
    ),
    ...raggedPair("7x512+1x262144", [...same(7, 512), 2 * LONGEST], swept),
  );
  for (const n of narrowHeads)
    cells.push(makeCell("narrow", same(1, Math.round(NARROW_TOKENS / n)), { ...swept, qoHeads: 4 * n, kvHeads: n }));
  for (const base of [long, wide]) {
    const { pageSize: _, ...contiguous } = single;
    const flat = makeCell("pages", base.lens, contiguous);
    cells.push(flat);
    for (const [pageSize, bound] of [
      [16, { at_least: 0.95 }],
      [64, { at_least: 0.99 }],
      [256, {}],
    ] as const)
      cells.push(makeCell("pages", base.lens, { ...single, pageSize, against: { id: flat.id, quantity: "rate", bound } }));
  }
  for (const base of [middle, wide, long]) {
    for (const [qoLen, most] of [
      [4, 1.1],
      [8, 1.15],
    ] as const) {
      const against = { id: base.id, quantity: "time", bound: { at_most: most } } as const;
      cells.push(makeCell("queries", base.lens, { ...single, qoLen, against }));
    }
  }
  return cells;
}

function cpuCells(): DecodeCell[] {
  const paged = { pageSize: 64 };
  const bounds = { ...paged, share: { at_least: 0.85 }, overPeer: { at_most: 0.5 } };
  const base = makeCell("length", same(1, 32768), bounds);
  return [
    makeCell("length", same(1, 8192), paged),
    base,
    makeCell("length", same(1, LONGEST), bounds),
    makeCell("batch", same(4, 8192), paged),
    makeCell("dim", same(1, 32768), { ...paged, headDim: 64 }),
    makeCell("dtype", same(1, 32768), { ...paged, dtype: "f32" }),
    makeCell("group", same(1, 32768), { ...paged, qoHeads: 64 }),
    makeCell("queries", same(1, 32768), { ...paged, qoLen: 4, against: { id: base.id, quantity: "time", bound: {} } }),
    ...raggedPair("15x1024+1x32768", [...same(15, 1024), 32768], paged),
  ];
}

export const decodeCells = (backend: Backend): DecodeCell[] => (backend === "cuda" ? cudaCells() : cpuCells());

/** Cells whose id contains `only`, and those they are compared with. */
export function selectCells(cells: readonly DecodeCell[], only: string | undefined): DecodeCell[] {
  if (only === undefined) return [...cells];
  const chosen = cells.filter(({ id }) => id.includes(only));
  const needed = new Set(chosen.flatMap(({ id, against }) => (against === undefined ? [id] : [id, against.id])));
  return cells.filter(({ id }) => needed.has(id));
}
