/** `kvasir bench`: runs suites, prints a table, and writes bench/results/<device>/<suite>.json. */
import { parseArgs } from "node:util";
import { type Device, openDevice } from "../lib/index.js";
import { measureCeilings } from "./ceilings.js";
import {
  describeRun,
  errorText,
  figureText,
  missedText,
  peerText,
  type Row,
  rateText,
  reachedText,
  type SuiteOptions,
  type SuiteResult,
  saveResult,
  shapeText,
  type Target,
  wantedText,
} from "./results.js";
import { attentionDecode } from "./suites/attention_decode.js";
import { attentionPrefill } from "./suites/attention_prefill.js";
import { decodeStep } from "./suites/decode_step.js";
import { diskTier } from "./suites/disk_tier.js";
import { execution } from "./suites/execution.js";
import { hybridDecode } from "./suites/hybrid_decode.js";
import { pageKeyRates } from "./suites/page_keys.js";
import { remoteTier } from "./suites/remote_tier.js";
import { swap } from "./suites/swap.js";
import { pageCopy } from "./suites/page_copy.js";
import { pageIntegrity } from "./suites/page_integrity.js";
import { pagePool } from "./suites/page_pool.js";

type Suite = (
  device: Device,
  ceilings: Record<string, number>,
  report: (row: Row) => void,
  options: SuiteOptions,
) => Promise<void>;

const suites = {
  attention_prefill: attentionPrefill,
  attention_decode: attentionDecode,
  decode_step: decodeStep,
  execution,
  page_keys: pageKeyRates,
  page_copy: pageCopy,
  page_integrity: pageIntegrity,
  swap,
  page_pool: pagePool,
  remote_tier: remoteTier,
  disk_tier: diskTier,
  hybrid_decode: hybridDecode,
} as const satisfies Record<string, Suite>;
type SuiteName = keyof typeof suites;
/** The suites that can be run in part. */
const selective: readonly SuiteName[] = ["attention_decode", "remote_tier"];

const help = `usage: kvasir bench [options] [SUITE ...]      (${Object.keys(suites).join(", ")}; all by default)

  --device D       cpu, cuda or cuda:<index>; default the best usable one
  --json           print the results as JSON, too
  --only TEXT      ${selective.join(", ")}: only cells whose name contains TEXT; writes no file
  --dir PATH       disk_tier: a folder on the file system to measure; default that of temporary files
  --no-peers       attention_decode: without PyTorch; writes no file
  --url URL        remote_tier: a server to measure, redis://host:port; default one that it starts on loopback
`;

export function rowText(row: Row): string {
  return [
    `${row.op} ${row.variant}`.padEnd(28),
    row.dtype.padEnd(5),
    shapeText(row).padEnd(38),
    `${row.median_us.toFixed(1)} us`.padStart(13),
    rateText(row).padStart(16),
    `${(100 * row.share_of_ceiling).toFixed(1)} %`.padStart(8),
    `err ${errorText(row)}`,
    peerText(row),
    figureText(row),
    missedText(row),
  ].join("  ");
}

/** What was to be reached, one line each. */
export function summaryText(summary: readonly Target[]): string {
  const width = Math.max(0, ...summary.map(({ name }) => name.length));
  const lines = summary.map((target) => {
    const columns = [target.name.padEnd(width), reachedText(target).padStart(9), wantedText(target).padStart(9)];
    return [...columns, target.met ? "" : "missed"].join("  ").trimEnd();
  });
  return lines.map((line) => `${line}\n`).join("");
}

/** Runs the named suites (all by default) and returns the process's exit code: 1 when a result was wrong. */
export async function runBench(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      device: { type: "string" },
      json: { type: "boolean", default: false },
      only: { type: "string" },
      dir: { type: "string" },
      "no-peers": { type: "boolean", default: false },
      url: { type: "string" },
      help: { type: "boolean", short: "h" },
    },
  });
  if (values.help) {
    process.stdout.write(help);
    return 0;
  }
  const names = (positionals.length > 0 ? positionals : Object.keys(suites)) as SuiteName[];
  const unknown = names.find((name) => !(name in suites));
  if (unknown !== undefined) {
    process.stderr.write(`unknown suite "${unknown}"; there are: ${Object.keys(suites).join(", ")}\n`);
    return 2;
  }
  const partial = values.only !== undefined || values["no-peers"];
  if (partial && !names.every((name) => selective.includes(name))) {
    process.stderr.write(`--only and --no-peers go with ${selective.join(", ")}\n`);
    return 2;
  }
  using device = openDevice(values.device as "cpu" | "cuda" | undefined);
  const ceilings = await measureCeilings(device);
  const results: SuiteResult[] = [];
  for (const name of names) {
    const result = describeRun(name, device, ceilings);
    const options: SuiteOptions = {
      only: values.only,
      dir: values.dir,
      withPeers: !values["no-peers"],
      url: values.url,
      conclude: (summary) => {
        result.summary = summary;
      },
    };
    const suite: Suite = suites[name];
    const take = (row: Row): void => {
      result.rows.push(row);
      process.stderr.write(`${rowText(row)}\n`);
      if (!partial) saveResult(device, result); // a run that is cut off keeps what it had
    };
    await suite(device, ceilings, take, options);
    process.stderr.write(summaryText(result.summary ?? []));
    if (!partial) process.stderr.write(`wrote ${saveResult(device, result)}\n`);
    results.push(result);
  }
  if (values.json) process.stdout.write(`${JSON.stringify(results)}\n`);
  return results.every((result) => result.rows.every((row) => row.pass)) ? 0 : 1;
}
