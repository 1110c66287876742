/** `kvasir report`: result files as one offline HTML page: roofline, bandwidth against context length, every row as a table. */
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import {
  errorText,
  loadResult,
  missedText,
  peerText,
  type Row,
  rateText,
  reachedText,
  resultsFolder,
  type SuiteResult,
  shapeText,
  splitText,
  type Target,
  wantedText,
} from "./results.js";
import { type Series, escapeText, lineChart } from "./svg.js";

const help = `usage: kvasir report [options] [FILE.json ...]      (all files below bench/results by default)

  --out FILE       the HTML page; default report.html
`;

/** Every suite file below bench/results. */
function findResults(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(".json"))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
}

const isSuite = (value: SuiteResult): boolean =>
  Array.isArray(value.rows) && typeof value.suite === "string" && value.rows.every((r) => r.shape);

const headsOf = ({ shape: s, dtype }: Row): string => `${dtype} ${s.qoHeads}/${s.kvHeads} d${s.headDim}`;

function grouped(rows: readonly Row[], key: (row: Row) => string): Map<string, Row[]> {
  const groups = new Map<string, Row[]>();
  for (const row of rows) groups.set(key(row), [...(groups.get(key(row)) ?? []), row]);
  return groups;
}

/** Peers of a group of rows as series of their own, in the unit that `rate` turns microseconds into. */
function peerSeries(rows: readonly Row[], rate: (row: Row, us: number) => number): Series[] {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row.peers)))];
  return names.map((name) => ({
    name,
    dashed: true,
    points: rows.flatMap((row) => (row.peers[name] === undefined ? [] : [{ x: row.shape.kvLen, y: rate(row, row.peers[name]) }])),
  }));
}

/** Rate against the size of a page, a line for each path. */
function copyCharts(rows: readonly Row[]): string[] {
  const copies = rows.filter((row) => row.pages !== undefined && row.op === "page_copy");
  return [...grouped(copies, (row) => row.variant.split(" ")[0] as string)].map(([direction, of]) => {
    const point = (row: Row) => ({ x: (row.pages?.bytes ?? 0) / 1024, y: row.gb_per_s ?? 0 });
    const lines: Series[] = [...grouped(of, (row) => row.variant)].map(([name, own]) => ({ name, points: own.map(point) }));
    const ceiling = of[0]?.ceiling.value ?? 0;
    lines.push({ name: "one large copy", dashed: true, points: of.map((row) => ({ ...point(row), y: ceiling })) });
    return lineChart(lines, { title: `Scattered pages, ${direction}`, xLabel: "page (KiB)", yLabel: "GB/s" });
  });
}

function charts(result: SuiteResult): string {
  const out: string[] = copyCharts(result.rows);
  const decode = result.rows.filter(
    (row) => row.gb_per_s !== undefined && row.pages === undefined && row.shape.batch === 1 && row.shape.qoLen === 1,
  );
  for (const [key, rows] of grouped(decode, (row) => `${headsOf(row)} page ${row.shape.pageSize}`)) {
    if (rows.length < 2) continue;
    const ceiling = rows[0]?.ceiling.value ?? 0;
    const rate = (row: Row, us: number): number => ((row.gb_per_s as number) * row.median_us) / us;
    const lines: Series[] = [
      { name: "kvasir", points: rows.map((row) => ({ x: row.shape.kvLen, y: row.gb_per_s as number })) },
      { name: "read bandwidth", dashed: true, points: rows.map((row) => ({ x: row.shape.kvLen, y: ceiling })) },
      ...peerSeries(rows, rate),
    ];
    out.push(lineChart(lines, { title: `Decode, batch 1, ${key}`, xLabel: "context (tokens)", yLabel: "GB/s of KV" }));
  }
  const prefill = result.rows.filter((row) => row.tflops !== undefined);
  for (const [key, rows] of grouped(prefill, (row) => `${row.variant}, ${headsOf(row)}`)) {
    if (rows.length < 2) continue;
    const rate = (row: Row, us: number): number => ((row.tflops as number) * row.median_us) / us;
    const lines: Series[] = [
      { name: "kvasir", points: rows.map((row) => ({ x: row.shape.kvLen, y: row.tflops as number })) },
      ...peerSeries(rows, rate),
    ];
    out.push(lineChart(lines, { title: `Prefill, ${key}`, xLabel: "length (tokens)", yLabel: "TFLOP/s" }));
  }
  return out.join("\n");
}

/** Attainable TFLOP/s against operations per byte, with every row that has both as a point. */
function roofline(result: SuiteResult): string {
  const bandwidth = result.ceilings.read_gb_per_s;
  const peak = result.ceilings.gemm_bf16_tflops;
  if (bandwidth === undefined || peak === undefined) return "";
  const points = result.rows
    .filter((row) => row.pages === undefined && (row.gb_per_s !== undefined || row.tflops !== undefined))
    .map((row) => {
      const s = row.shape;
      const width = row.dtype === "f32" ? 4 : 2;
      const bytes = width * s.batch * s.headDim * (2 * s.kvHeads * s.kvLen + 2 * s.qoHeads * s.qoLen);
      const flops =
        row.tflops === undefined ? 4 * s.batch * s.qoHeads * s.qoLen * s.kvLen * s.headDim : row.tflops * row.median_us * 1e6;
      return { x: Math.max(flops / bytes, 0.25), y: flops / row.median_us / 1e6 };
    });
  if (points.length === 0) return "";
  const intensities = Array.from({ length: 16 }, (_, i) => 2 ** (i - 1));
  const roof = intensities.map((x) => ({ x, y: Math.min(peak, (x * bandwidth) / 1000) }));
  const dots = points.sort((a, b) => a.x - b.x);
  return lineChart(
    [
      { name: "ceiling", dashed: true, points: roof },
      { name: "measured", points: dots, dots: true },
    ],
    {
      title: `Roofline: ${result.suite}`,
      xLabel: "operations per byte",
      yLabel: "TFLOP/s",
      logY: true,
    },
  );
}

function table(result: SuiteResult): string {
  const head = [
    "op",
    "variant",
    "shape",
    "dtype",
    "median µs",
    "p5",
    "p95",
    "n",
    "rate",
    "of ceiling",
    "peers (their time / ours)",
    "max error",
    "split counts (their time / default)",
    "missed",
  ];
  const rows = result.rows.map((row) => [
    row.op,
    row.variant,
    shapeText(row),
    row.dtype,
    row.median_us.toFixed(1),
    row.p5_us.toFixed(1),
    row.p95_us.toFixed(1),
    String(row.samples),
    rateText(row),
    `${(100 * row.share_of_ceiling).toFixed(1)} %`,
    peerText(row),
    errorText(row),
    splitText(row),
    missedText(row),
  ]);
  return tableOf(head, rows);
}

function tableOf(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = (tag: string, values: readonly string[]): string =>
    `<tr>${values.map((value) => `<${tag}>${escapeText(value)}</${tag}>`).join("")}</tr>`;
  return `<table>${cells("th", head)}${rows.map((row) => cells("td", row)).join("")}</table>`;
}

function summaryTable(summary: readonly Target[]): string {
  const line = (target: Target): string[] => [
    target.name,
    reachedText(target),
    wantedText(target),
    wantedText(target) === "-" ? "" : target.met ? "yes" : "no",
  ];
  return summary.length === 0 ? "" : tableOf(["target", "reached", "wanted", "met"], summary.map(line));
}

export function renderReport(results: readonly SuiteResult[]): string {
  const sections = results.map((result) => {
    const frame = `${result.device}, driver ${result.driver}, CUDA ${result.cuda}, ${result.clocks}, commit ${result.commit}, ${result.at}`;
    const ceilings = Object.entries(result.ceilings).map(([name, value]) => `${name} ${value.toFixed(1)}`);
    return `<section><h2>${escapeText(result.suite)} — ${escapeText(result.device)}</h2><p>${escapeText(frame)}</p>
<p>Ceilings of the same run: ${escapeText(ceilings.join(", "))}</p>${roofline(result)}${charts(result)}${summaryTable(result.summary ?? [])}${table(result)}</section>`;
  });
  return `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>kvasir benches</title><style>
body{font:14px/1.5 sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}table{border-collapse:collapse;font-size:12px}
td,th{border-bottom:1px solid #ddd;padding:2px 8px;text-align:left;white-space:nowrap}svg{width:720px;max-width:100%;display:block;margin:1em 0}
section{overflow-x:auto}</style></head><body><h1>kvasir benches</h1>${sections.join("\n")}</body></html>\n`;
}

export function runReport(args: readonly string[]): number {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: { out: { type: "string", default: "report.html" }, help: { type: "boolean", short: "h" } },
  });
  if (values.help) {
    process.stdout.write(help);
    return 0;
  }
  const files = positionals.length > 0 ? positionals : findResults(resultsFolder());
  const missing = files.find((file) => !existsSync(file));
  if (missing !== undefined) {
    process.stderr.write(`no result file "${missing}"; \`kvasir bench\` writes them below bench/results\n`);
    return 2;
  }
  const results = files.map(loadResult).filter(isSuite);
  if (results.length === 0) {
    process.stderr.write("no result files; run `kvasir bench` first, or name some\n");
    return 1;
  }
  writeFileSync(values.out, renderReport(results));
  process.stdout.write(`${values.out}\n`);
  return 0;
}
