import { describe, expect, test } from "vitest";
import { summarise } from "../../bench/harness.js";
import { attendRow, maxAbsError } from "../../bench/oracle.js";
import { renderReport } from "../../bench/report.js";
import type { Row, SuiteResult } from "../../bench/results.js";
import { lineChart } from "../../bench/svg.js";

const row = (kvLen: number, us: number): Row => ({
  op: "attention",
  variant: "decode-paged",
  shape: { batch: 1, qoLen: 1, kvLen, qoHeads: 32, kvHeads: 8, headDim: 128, pageSize: 64 },
  dtype: "bf16",
  samples: 30,
  median_us: us,
  p5_us: us,
  p95_us: us,
  gb_per_s: (kvLen * 4096) / us / 1e3,
  ceiling: { name: "read_gb_per_s", value: 3000 },
  share_of_ceiling: (kvLen * 4096) / us / 1e3 / 3000,
  peers: { fa2: 2 * us },
  max_abs_err: 1e-4,
  tolerance: 1e-2,
  pass: true,
});

const result: SuiteResult = {
  suite: "attention_decode",
  device: 'GPU <"x">',
  host: "h",
  driver: "13.0",
  cuda: "13.0",
  clocks: "-",
  commit: "abc",
  at: "2026-01-01",
  ceilings: { read_gb_per_s: 3000, gemm_bf16_tflops: 700 },
  rows: [row(8192, 20), row(131072, 200)],
};

describe("report", () => {
  const page = renderReport([result]);

  test("is one offline page: no address of any kind is loaded", () => {
    expect(page).not.toMatch(/(src|href)=|@import|url\(/);
  });

  test("draws the rate against context length with its ceiling and its peers", () => {
    expect(page).toContain("Decode, batch 1, bf16 32/8 d128 page 64");
    for (const name of ["kvasir", "read bandwidth", "fa2"]) expect(page).toContain(`>${name}</text>`);
  });

  test("lists every row with the peer's time over ours", () => {
    expect(page.match(/<td>attention<\/td>/g)).toHaveLength(2);
    expect(page).toContain("fa2 2.00");
  });

  test("escapes what came from the machine", () => {
    expect(page).toContain("GPU &lt;&quot;x&quot;&gt;");
    expect(page).not.toContain('<"x">');
  });

  test("shows what was to be reached, and which split counts were tried", () => {
    const missed = { name: "us", value: 20, at_most: 15, met: false };
    const splits = { samples: 10, us: { "1": 60, "8": 21 }, best: 8, best_us: 21, default_us: 20, chunk_us: 25 };
    const text = renderReport([{ ...result, summary: [missed], rows: [{ ...row(8192, 20), targets: [missed], splits }] }]);
    expect(text).toContain("<td>us</td><td>20.00</td><td>&lt;= 15</td><td>no</td>");
    expect(text).toContain("<td>1: 3.00, 8: 1.05</td><td>missed: us 20.00 (&lt;= 15)</td>");
  });

  test("a failed row is named", () => {
    expect(renderReport([{ ...result, rows: [{ ...row(8192, 20), pass: false }] }])).toContain("FAIL");
  });
});

describe("chart", () => {
  test("a larger value lies higher, a longer context further right", () => {
    const svg = lineChart(
      [
        {
          name: "a",
          points: [
            { x: 1, y: 1 },
            { x: 4, y: 3 },
          ],
        },
      ],
      { title: "t", xLabel: "x", yLabel: "y" },
    );
    const [low, high] = [...svg.matchAll(/<circle cx="([\d.]+)" cy="([\d.]+)"/g)].map(
      (m) => [Number(m[1]), Number(m[2])] as const,
    );
    expect(high?.[0]).toBeGreaterThan(low?.[0] as number);
    expect(high?.[1]).toBeLessThan(low?.[1] as number);
  });
});

describe("harness", () => {
  test("the summary is the median and the 5th and 95th percentile", () => {
    const samples = Array.from({ length: 101 }, (_, i) => 100 - i);
    expect(summarise(samples)).toEqual({ samples: 101, median_us: 50, p5_us: 5, p95_us: 95 });
  });

  test("the row oracle is softmax-weighted values", () => {
    const row = (values: number[]) => (j: number) => Float32Array.of(values[j] as number);
    const key = row([0, 1]);
    const out = attendRow({ q: Float32Array.of(1), key, value: row([4, 8]), count: 2, scale: Math.log(3) });
    expect(out[0]).toBeCloseTo(7, 12);
    expect(attendRow({ q: Float32Array.of(1), key, value: key, count: 0, scale: 1 })).toEqual(Float64Array.of(0));
  });

  test("an error that is NaN counts as infinite", () => {
    expect(maxAbsError([Number.NaN, 1], [0, 1])).toBe(Number.POSITIVE_INFINITY);
    expect(maxAbsError([1, 2.5], [1, 2])).toBe(0.5);
  });
});
