import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { summaryText } from "../../bench/main.js";
import type { Row, Target } from "../../bench/results.js";
import { attentionDecode } from "../../bench/suites/attention_decode.js";
import {
  type DecodeCell,
  decodeCells,
  isUniform,
  kvBytes,
  lognormalLengths,
  narrowHeads,
  selectCells,
  sumOf,
} from "../../bench/suites/attention_decode_cells.js";
import { rotationOf } from "../../bench/suites/attention_decode_batch.js";
import { chunkSplits, rowTargets, summarise } from "../../bench/suites/attention_decode_targets.js";
import { type Device, openDevice } from "../../lib/index.js";

const cells = decodeCells("cuda");
const find = (text: string): DecodeCell => cells.find(({ id }) => id.includes(text)) as DecodeCell;

function rowOf(cell: DecodeCell, us: number, more: Partial<Row> = {}): Row {
  const { lens, qoLen, qoHeads, kvHeads, headDim, dtype } = cell;
  const rate = kvBytes(cell) / us / 1e3;
  return {
    op: "attention",
    variant: "decode",
    shape: { batch: lens.length, qoLen, kvLen: lens[0] as number, qoHeads, kvHeads, headDim },
    dtype,
    samples: 30,
    median_us: us,
    p5_us: us,
    p95_us: us,
    gb_per_s: rate,
    ceiling: { name: "read_gb_per_s", value: 3000 },
    share_of_ceiling: rate / 3000,
    peers: {},
    max_abs_err: 0,
    tolerance: 1e-2,
    pass: true,
    ...more,
  };
}

describe("cells", () => {
  test("names are unique, and what a cell is compared with comes before it", () => {
    for (const list of [cells, decodeCells("cpu")]) {
      const ids = list.map(({ id }) => id);
      expect(new Set(ids).size).toBe(ids.length);
      for (const [i, { against }] of list.entries()) if (against !== undefined) expect(ids.slice(0, i)).toContain(against.id);
    }
  });

  test("a ragged batch has a uniform one of as many requests and the same bytes", () => {
    const ragged = cells.filter(({ group }) => group === "ragged");
    expect(ragged).toHaveLength(4);
    for (const cell of ragged) {
      const even = find(cell.against?.id as string);
      expect(isUniform(even)).toBe(true);
      expect(even.lens).toHaveLength(cell.lens.length);
      expect(kvBytes(cell) / kvBytes(even)).toBeCloseTo(1, 4);
    }
  });

  test("narrow batches have equal bytes, 512 MB at least", () => {
    const bytes = cells.filter(({ group }) => group === "narrow").map(kvBytes);
    expect(bytes).toHaveLength(narrowHeads.length);
    expect(Math.min(...bytes)).toBeGreaterThanOrEqual(512e6);
    expect(Math.max(...bytes) / Math.min(...bytes)).toBeLessThan(1.0001);
  });

  test("lognormal lengths keep to their mean, spread as sigma says, and come again with the seed", () => {
    const lens = lognormalLengths(4096, 8192, 1.5, 7);
    expect(sumOf(lens) / lens.length).toBeCloseTo(8192, -1);
    const logs = lens.map(Math.log);
    const mean = sumOf(logs) / logs.length;
    const sigma = Math.sqrt(sumOf(logs.map((x) => (x - mean) ** 2)) / logs.length);
    expect(sigma).toBeGreaterThan(1.4);
    expect(sigma).toBeLessThan(1.6);
    expect(lognormalLengths(4096, 8192, 1.5, 7)).toEqual(lens);
    expect(lognormalLengths(4096, 8192, 1.5, 8)).not.toEqual(lens);
  });

  test("a part of them brings what it is compared with", () => {
    const chosen = selectCells(cells, "queries/b16").map(({ group }) => group);
    expect(chosen).toEqual(["batch", "queries", "queries"]);
    expect(selectCells(cells, undefined)).toHaveLength(cells.length);
    expect(selectCells(cells, "no such cell")).toHaveLength(0);
  });

  test("programs have 32 nodes below 2 GiB and 8 from there on, and go through more than a cache holds", () => {
    for (const cell of cells) {
      const { layers, nodes } = rotationOf(cell, "cuda", 2 ** 30);
      expect(nodes).toBe(kvBytes(cell) < 2 ** 31 ? 32 : 8);
      expect(layers).toBeLessThanOrEqual(nodes);
      expect(layers * kvBytes(cell)).toBeGreaterThan(128e6);
      expect(layers * kvBytes(cell)).toBeLessThan(16e9);
    }
  });
});

describe("targets", () => {
  test("a row is held against its time, its share, its fastest peer and its best split count", () => {
    const splits = { samples: 10, us: { "1": 400, "8": 47 }, best: 8, best_us: 47, default_us: 50, chunk_us: 60 };
    const cell = find("length/b1 k32768");
    const row = rowOf(cell, 51, { peers: { slow: 90, fast: 48 }, splits });
    expect(rowTargets(cell, row).map(({ name, met }) => [name, met])).toEqual([
      ["us", false],
      ["time over the fastest peer", false],
      ["best split count over default", false],
    ]);
    const good = rowOf(cell, 48.9, { peers: { fast: 48 }, splits: { ...splits, best_us: 49 } });
    expect(rowTargets(cell, good).every(({ met }) => met)).toBe(true);
  });

  const value = (summary: readonly Target[], text: string): number =>
    summary.find(({ name }) => name.includes(text))?.value as number;

  test("ratios compare rates or times of two cells", () => {
    const [base, four] = [find("batch/b16 k8192"), find("queries/b16 k8192 q4")];
    const ragged = find("ragged/63x1024");
    const even = find(ragged.against?.id as string);
    const summary = summarise([
      { cell: base, row: rowOf(base, 200) },
      { cell: four, row: rowOf(four, 230) },
      { cell: even, row: rowOf(even, 300) },
      { cell: ragged, row: rowOf(ragged, 320) },
    ]);
    expect(value(summary, "queries/b16 k8192 q4")).toBeCloseTo(1.15);
    expect(summary.find(({ name }) => name.startsWith("queries/"))?.met).toBe(false);
    expect(value(summary, "ragged/63x1024")).toBeCloseTo(300 / 320);
  });

  test("the spread is the fastest narrow batch over the slowest", () => {
    const narrow = cells.filter(({ group }) => group === "narrow");
    const summary = summarise(narrow.map((cell, i) => ({ cell, row: rowOf(cell, 200 + i) })));
    expect(value(summary, "narrow:")).toBeCloseTo(206 / 200, 3);
  });

  test("split counts: the worst cell, the mean over ragged ones, the non-split kernel", () => {
    const splits = (best_us: number) => ({ samples: 10, us: { "1": 900 }, best: 4, best_us, default_us: 100, chunk_us: 150 });
    const ragged = cells.filter(({ group }) => group === "ragged");
    const long = find("length/b1 k524288");
    const summary = summarise([
      { cell: long, row: rowOf(long, 700, { splits: splits(97) }) },
      ...ragged.map((cell, i) => ({ cell, row: rowOf(cell, 300, { splits: splits(110 + 10 * i) }) })),
    ]);
    expect(value(summary, "lowest best split count over default: length/b1 k524288")).toBeCloseTo(0.97);
    expect(value(summary, "ragged: best split count over default, mean")).toBeCloseTo(1.25);
    expect(value(summary, "ragged: chunk-sized splits over default, mean")).toBeCloseTo(1.5);
    expect(value(summary, "non-split over default")).toBeCloseTo(9);
  });

  test("chunk-sized splits follow the longest request, up to 128", () => {
    expect(chunkSplits(find("ragged/63x1024"))).toBe(64);
    expect(chunkSplits(find("length/b1 k1024"))).toBe(1);
    expect(chunkSplits(find("narrow/b1 k1048576"))).toBe(128);
  });

  test("the printed table marks what was missed", () => {
    const text = summaryText([
      { name: "a", value: 1.5, at_least: 2, met: false },
      { name: "longer", value: Number.NaN, met: true },
    ]);
    expect(text).toBe("a           1.500       >= 2  missed\nlonger       none          -\n");
  });
});

describe("small shapes on the CPU", () => {
  let device: Device;
  beforeAll(() => {
    device = openDevice("cpu");
  });
  afterAll(() => device.dispose());

  test("every kind of cell is measured, checked and summed up", { timeout: 120_000 }, async () => {
    const small = cells.map((cell) => ({ ...cell, lens: cell.lens.map((length) => Math.ceil(length / 512)) }));
    const rows: Row[] = [];
    let summary: Target[] = [];
    await attentionDecode(device, { read_gb_per_s: 10 }, (row) => rows.push(row), {
      cells: small,
      withPeers: false,
      rotateBytes: 2 ** 21,
      ceiling: () => Promise.resolve(10),
      conclude: (targets) => {
        summary = targets;
      },
    });
    expect(rows.filter(({ pass }) => !pass)).toEqual([]);
    expect(rows).toHaveLength(cells.length);
    const swept = cells.filter(({ sweep }) => sweep).length;
    expect(rows.filter(({ splits }) => splits !== undefined)).toHaveLength(swept);
    expect(summary.at(-1)).toEqual({ name: "cells that could not run", value: 0, at_most: 0, met: true });
    const compared = cells.filter(({ against }) => against !== undefined).length;
    expect(summary.filter(({ name }) => / (rate|time) over /.test(name))).toHaveLength(compared);
    expect(summary.every(({ value }) => Number.isFinite(value))).toBe(true);
  });
});
