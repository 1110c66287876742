/** `kvasir bench [suite ...] [--device cpu|cuda] [--json]`: runs suites, prints a table, and writes bench/results/<device>/<suite>.json. */
import { parseArgs } from "node:util";
import { openDevice } from "../lib/index.js";
import { measureCeilings } from "./ceilings.js";
import { describeRun, errorText, peerText, type Row, rateText, type SuiteResult, saveResult, shapeText } from "./results.js";
import { attentionDecode } from "./suites/attention_decode.js";
import { attentionPrefill } from "./suites/attention_prefill.js";
import { execution } from "./suites/execution.js";

const suites = { attention_prefill: attentionPrefill, attention_decode: attentionDecode, execution } as const;
type SuiteName = keyof typeof suites;

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
  ].join("  ");
}

/** Runs the named suites (all by default) and returns the process's exit code: 1 when a result was wrong. */
export async function runBench(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: { device: { type: "string" }, json: { type: "boolean", default: false } },
  });
  const names = (positionals.length > 0 ? positionals : Object.keys(suites)) as SuiteName[];
  const unknown = names.find((name) => !(name in suites));
  if (unknown !== undefined) {
    process.stderr.write(`unknown suite "${unknown}"; there are: ${Object.keys(suites).join(", ")}\n`);
    return 2;
  }
  using device = openDevice(values.device as "cpu" | "cuda" | undefined);
  const ceilings = await measureCeilings(device);
  const results: SuiteResult[] = [];
  for (const name of names) {
    const result = describeRun(name, device, ceilings);
    await suites[name](device, ceilings, (row) => {
      result.rows.push(row);
      process.stderr.write(`${rowText(row)}\n`);
    });
    process.stderr.write(`wrote ${saveResult(device, result)}\n`);
    results.push(result);
  }
  if (values.json) process.stdout.write(`${JSON.stringify(results)}\n`);
  return results.every((result) => result.rows.every((row) => row.pass)) ? 0 : 1;
}
