/** The shape of what a bench run leaves in bench/results/<device>/<suite>.json, and where it goes. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, loadavg, totalmem } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { execFileSync } from "node:child_process";
import type { Device, DType } from "../lib/index.js";

export interface AttentionShape {
  batch: number;
  qoLen: number;
  /** Tokens of a request; of a ragged batch, on average. */
  kvLen: number;
  /** Ragged batch: tokens of the longest request. */
  longest?: number;
  qoHeads: number;
  kvHeads: number;
  headDim: number;
  pageSize?: number;
}

/** A figure that is to reach a bound; without one it is told only. */
export interface Target {
  name: string;
  value: number;
  at_least?: number;
  at_most?: number;
  met: boolean;
}

/** Times under fixed split counts, the same for every request, beside the default schedule. */
export interface SplitTimes {
  /** Launches behind each figure of `us`. */
  samples: number;
  /** Median microseconds by split count. */
  us: Record<string, number>;
  /** The fastest count, and medians of runs in turns with the default and with chunk-sized splits. */
  best: number;
  best_us: number;
  default_us: number;
  chunk_us: number;
}

export interface Row {
  op: string;
  variant: string;
  /** All zeros where it is no attention. */
  shape: AttentionShape;
  /** What a row about copies moved. */
  pages?: { bytes: number; count: number };
  dtype: DType;
  samples: number;
  median_us: number;
  p5_us: number;
  p95_us: number;
  gb_per_s?: number;
  tflops?: number;
  ceiling: { name: string; value: number };
  share_of_ceiling: number;
  /** What else was measured, by names that carry the unit. */
  figures?: Record<string, number>;
  peers: Record<string, number>;
  max_abs_err: number;
  tolerance: number;
  pass: boolean;
  targets?: Target[];
  splits?: SplitTimes;
}

export interface SuiteResult {
  suite: string;
  device: string;
  host: string;
  driver: string;
  cuda: string;
  clocks: string;
  commit: string;
  at: string;
  ceilings: Record<string, number>;
  rows: Row[];
  /** What was to be reached: rows' own targets, and figures over several rows. */
  summary?: Target[];
}

/** What the command line tells a suite. */
export interface SuiteOptions {
  /** Cells whose name contains this, and those they are compared with. */
  only?: string | undefined;
  withPeers?: boolean | undefined;
  /** A server to measure instead of one that the suite starts. */
  url?: string | undefined;
  /** Where suites of a file system put their files. */
  dir?: string | undefined;
  /** Takes the summary once all is measured. */
  conclude?: (summary: Target[]) => void;
}

const versionText = (version: number): string =>
  version === 0 ? "none" : `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;

/** "NVIDIA H100 80GB HBM3" -> "h100-80gb-hbm3"; CPUs get the prefix "cpu-". */
export function deviceSlug(device: Device): string {
  const name = device
    .describe()
    .name.toLowerCase()
    .replace(/\(r\)|\(tm\)|nvidia|processor|@.*$/g, " ")
    .trim()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-|-$/g, "");
  return device.backend === "cpu" ? `cpu-${name}-${device.describe().multiprocessors}t` : name;
}

function commandLine(program: string, args: readonly string[]): string {
  try {
    return execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
  } catch {
    return "unknown";
  }
}

/** The frame of a result file: everything that is true of the whole run. */
export function describeRun(suite: string, device: Device, ceilings: Record<string, number>): SuiteResult {
  const info = device.describe();
  const clocks =
    device.backend === "cuda"
      ? commandLine("nvidia-smi", ["--query-gpu=clocks.sm,clocks.mem,power.limit", "--format=csv,noheader"])
      : `${info.multiprocessors} threads, ${info.isa}, load ${loadavg()[0]?.toFixed(2)}`;
  return {
    suite,
    device: info.name,
    host: `${cpus().length} x ${cpus()[0]?.model ?? "unknown CPU"}, ${Math.round(totalmem() / 2 ** 30)} GiB`,
    driver: versionText(info.driverVersion),
    cuda: versionText(info.runtimeVersion),
    clocks,
    commit: process.env.KVASIR_COMMIT ?? commandLine("git", ["rev-parse", "--short", "HEAD"]),
    at: new Date().toISOString(),
    ceilings,
    rows: [],
  };
}

/** bench/results in the source tree, also when this file runs from dist/bench. */
export function resultsFolder(): string {
  const here = dirname(fileURLToPath(import.meta.url));
  const root = here.endsWith(join("dist", "bench")) ? join(here, "..", "..") : join(here, "..");
  return process.env.KVASIR_RESULTS ?? join(root, "bench", "results");
}

export function saveResult(device: Device, result: SuiteResult): string {
  const path = join(resultsFolder(), deviceSlug(device), `${result.suite}.json`);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `${JSON.stringify(result, null, 1)}\n`);
  return path;
}

export const loadResult = (path: string): SuiteResult => JSON.parse(readFileSync(path, "utf8")) as SuiteResult;

export type Bound = Pick<Target, "at_least" | "at_most">;

/** A value that is not a number meets no bound. */
export function makeTarget(name: string, value: number, bound: Bound = {}): Target {
  const met =
    (bound.at_least === undefined || value >= bound.at_least) && (bound.at_most === undefined || value <= bound.at_most);
  return { name, value, ...bound, met };
}

export function wantedText({ at_least, at_most }: Bound): string {
  if (at_least !== undefined) return `>= ${at_least}`;
  return at_most === undefined ? "-" : `<= ${at_most}`;
}

/** JSON holds no NaN: a value that could not be computed comes back from a file as null. */
export const reachedText = ({ value }: Target): string => (Number.isFinite(value) ? value.toPrecision(4) : "none");

/** The row's targets that were missed. */
export const missedText = (row: Row): string =>
  (row.targets ?? [])
    .filter((target) => !target.met)
    .map((target) => `missed: ${target.name} ${reachedText(target)} (${wantedText(target)})`)
    .join(", ");

/** Each fixed split count's time over the default's. */
export const splitText = ({ splits }: Row): string =>
  splits === undefined
    ? ""
    : Object.entries(splits.us)
        .map(([count, us]) => `${count}: ${(us / splits.default_us).toFixed(2)}`)
        .join(", ");

/** All zeros: for rows that have no attention in them. */
export const noAttention: AttentionShape = { batch: 0, qoLen: 0, kvLen: 0, qoHeads: 0, kvHeads: 0, headDim: 0 };

const bytesText = (bytes: number): string =>
  bytes >= 2 ** 20 ? `${bytes / 2 ** 20} MiB` : bytes >= 1024 ? `${bytes / 1024} KiB` : `${bytes} B`;

export const shapeText = ({ shape: s, pages }: Row): string =>
  pages !== undefined
    ? `${pages.count} x ${bytesText(pages.bytes)}`
    : `b${s.batch} q${s.qoLen} k${s.kvLen}${s.longest === undefined ? "" : `(max ${s.longest})`} h${s.qoHeads}/${s.kvHeads} d${s.headDim}${s.pageSize === undefined ? "" : ` p${s.pageSize}`}`;

export function rateText(row: Row): string {
  if (row.tflops !== undefined) return `${row.tflops.toFixed(2)} TFLOP/s`;
  return row.gb_per_s === undefined ? "" : `${row.gb_per_s.toFixed(1)} GB/s`;
}

/** Each peer's time over ours. */
export const peerText = (row: Row): string =>
  Object.entries(row.peers)
    .map(([name, us]) => `${name} ${(us / row.median_us).toFixed(2)}`)
    .join(", ");

export const figureText = (row: Row): string =>
  Object.entries(row.figures ?? {})
    .map(([name, value]) => `${name} ${value.toFixed(1)}`)
    .join(", ");

export const errorText = (row: Row): string => `${row.max_abs_err.toExponential(1)}${row.pass ? "" : " FAIL"}`;
