/** The tiers' counters as metrics, read when asked for. */
import type { Metrics } from "../observe/metrics.js";
import type { TiersStats } from "./tier_stats.js";
import type { TierDriver, TierStats } from "./tier_driver.js";

/** Registers what the tiers count; `stats` is called once for each metric that is read. */
export function registerTiers(metrics: Metrics, stats: () => TiersStats, drivers: readonly TierDriver[]): void {
  const counter = (name: string, help: string, read: (stats: TiersStats) => number, labels = {}): void => {
    metrics.counter(`kvasir_${name}_total`, help, labels, () => read(stats()));
  };
  counter("prompts", "Prompts that were looked for in the tiers.", ({ prompts }) => prompts);
  counter("prompt_tokens", "Tokens of those prompts.", ({ promptTokens }) => promptTokens);
  counter("adopted_tokens", "Prompt tokens that were found and need not be read.", ({ adoptedTokens }) => adoptedTokens);
  counter("lost_tokens", "Tokens of suspended sequences whose pages were lost.", ({ lostTokens }) => lostTokens);
  for (const tier of ["device", "host", ...drivers.map(({ name }) => name)]) {
    const help = "Tokens that prompts and sequences needed back, by where their pages were.";
    counter("found_tokens", help, ({ foundTokens }) => foundTokens[tier] ?? 0, { tier });
  }
  for (const direction of ["out", "in"] as const) {
    const help = "Bytes copied between the device pool and the host pool.";
    counter("moved_bytes", help, ({ moves }) => moves[`${direction}Bytes`], { direction });
  }
  counter("move_failures", "Copies between the pools that failed.", ({ moves }) => moves.failures);
  counter("demoted_pages", "Pages that left an arena with a copy below it.", ({ evictions }) => evictions.demoted);
  counter("dropped_pages", "Pages that were forgotten to make room.", ({ evictions }) => evictions.dropped);
  for (const driver of drivers) driverMetrics(metrics, driver);
}

function driverMetrics(metrics: Metrics, driver: TierDriver): void {
  const labels = { tier: driver.name };
  const add = (kind: "gauge" | "counter", name: string, help: string, field: keyof TierStats): void => {
    metrics[kind](`kvasir_tier_${name}`, help, labels, () => driver.stats()[field]);
  };
  add("gauge", "pages", "Pages that a keyed tier holds.", "pages");
  add("gauge", "bytes", "Bytes that a keyed tier holds.", "bytes");
  add("counter", "loaded_bytes_total", "Bytes loaded from a keyed tier.", "loadedBytes");
  add("counter", "stored_bytes_total", "Bytes stored in a keyed tier.", "storedBytes");
  add("counter", "misses_total", "Loads of pages that a keyed tier did not hold.", "misses");
  add("counter", "damaged_total", "Loads of pages that failed a check.", "damaged");
  add("counter", "failures_total", "Loads and stores that a keyed tier could not do.", "failures");
  add("counter", "refused_total", "Stores that a keyed tier had no room for.", "refused");
}
