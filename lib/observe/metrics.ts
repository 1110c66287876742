/**
 * Counters, gauges and histograms by name and labels, read as a snapshot or as Prometheus text (exposition format 0.0.4). Values that live
 * elsewhere are read when asked for: a metric may be given a function in place of a number.
 */
import { KvasirError } from "../errors.js";
import { describe } from "../options.js";

export type MetricKind = "counter" | "gauge" | "histogram";
export type Labels = Readonly<Record<string, string>>;

export interface HistogramValue {
  /** Upper bounds, rising; observations above the last are in `count` only. */
  bounds: readonly number[];
  /** Observations at or below each bound. */
  cumulative: number[];
  sum: number;
  count: number;
}

export interface MetricSample {
  name: string;
  kind: MetricKind;
  help: string;
  labels: Labels;
  value: number | HistogramValue;
}

const namePattern = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/;
const labelPattern = /^(?!__)[a-zA-Z_][a-zA-Z0-9_]*$/;

/** Only rises. */
export class Counter {
  #value = 0;
  readonly #read: (() => number) | undefined;

  constructor(read?: () => number) {
    this.#read = read;
  }

  get value(): number {
    return this.#read?.() ?? this.#value;
  }

  /** @throws ERR_KVASIR_INVALID_ARGUMENT for an amount below 0 or a counter that is read from elsewhere */
  add(amount = 1): void {
    if (!(amount >= 0)) throw invalid(`amount is ${amount}, expected at least 0: a counter only rises`);
    if (this.#read !== undefined) throw invalid("a counter that a function reads cannot be added to");
    this.#value += amount;
  }
}

/** Goes up and down. */
export class Gauge {
  #value = 0;
  readonly #read: (() => number) | undefined;

  constructor(read?: () => number) {
    this.#read = read;
  }

  get value(): number {
    return this.#read?.() ?? this.#value;
  }

  /** @throws ERR_KVASIR_INVALID_ARGUMENT for a gauge that is read from elsewhere */
  set(value: number): void {
    if (this.#read !== undefined) throw invalid("a gauge that a function reads cannot be set");
    this.#value = value;
  }
}

/** Counts observations in buckets. */
export class Histogram {
  readonly bounds: readonly number[];
  readonly #counts: Float64Array;
  #sum = 0;
  #count = 0;

  /** @throws ERR_KVASIR_INVALID_ARGUMENT unless the bounds are finite and rise */
  constructor(bounds: readonly number[]) {
    const rises = bounds.every((bound, i) => Number.isFinite(bound) && (i === 0 || bound > (bounds[i - 1] as number)));
    if (bounds.length === 0 || !rises) throw invalid(`bounds are [${bounds.join(", ")}], expected finite numbers that rise`);
    this.bounds = [...bounds];
    this.#counts = new Float64Array(bounds.length);
  }

  /** Counts a value; one that is not a number is in the count and makes the sum not a number, as in any Prometheus client. */
  observe(value: number): void {
    let low = 0;
    let high = this.bounds.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (value <= (this.bounds[middle] as number)) high = middle;
      else low = middle + 1;
    }
    if (low < this.bounds.length && !Number.isNaN(value)) this.#counts[low] = (this.#counts[low] as number) + 1;
    this.#sum += value;
    this.#count++;
  }

  get value(): HistogramValue {
    let total = 0;
    const cumulative = Array.from(this.#counts, (count) => {
      total += count;
      return total;
    });
    return { bounds: this.bounds, cumulative, sum: this.#sum, count: this.#count };
  }
}

type Metric = Counter | Gauge | Histogram;

interface Family {
  kind: MetricKind;
  help: string;
  labelNames: string;
  /** By label values. */
  metrics: Map<string, { labels: Labels; metric: Metric }>;
}

/**
 * Metrics by name.
 *
 * @example
 * ```ts
 * const metrics = new Metrics();
 * const hits = metrics.counter("kvasir_page_hits_total", "Pages found in the cache", { tier: "ddr" });
 * hits.add();
 * response.setHeader("content-type", Metrics.contentType).end(metrics.text());
 * ```
 */
export class Metrics {
  static readonly contentType = "text/plain; version=0.0.4; charset=utf-8";
  readonly #families: Map<string, Family> = new Map();

  /** A counter; `read` makes it one whose value lives elsewhere. @throws ERR_KVASIR_INVALID_ARGUMENT */
  counter(name: string, help: string, labels: Labels = {}, read?: () => number): Counter {
    return this.#add(name, "counter", help, labels, new Counter(read));
  }

  /** A gauge; `read` makes it one whose value lives elsewhere. @throws ERR_KVASIR_INVALID_ARGUMENT */
  gauge(name: string, help: string, labels: Labels = {}, read?: () => number): Gauge {
    return this.#add(name, "gauge", help, labels, new Gauge(read));
  }

  /** A histogram with the given upper bounds. @throws ERR_KVASIR_INVALID_ARGUMENT */
  histogram(name: string, help: string, bounds: readonly number[], labels: Labels = {}): Histogram {
    if ("le" in labels) throw invalid(`labels of ${name} include le, which names a histogram's buckets`);
    return this.#add(name, "histogram", help, labels, new Histogram(bounds));
  }

  /** All values now, in the order in which the metrics were made. */
  snapshot(): MetricSample[] {
    return [...this.#families].flatMap(([name, { kind, help, metrics }]) =>
      [...metrics.values()].map(({ labels, metric }) => ({ name, kind, help, labels, value: metric.value })),
    );
  }

  /** All values as Prometheus text, version 0.0.4. */
  text(): string {
    let text = "";
    for (const [name, { kind, help, metrics }] of this.#families) {
      text += `# HELP ${name} ${escapeHelp(help)}\n# TYPE ${name} ${kind}\n`;
      for (const { labels, metric } of metrics.values()) text += sampleLines(name, labels, metric.value);
    }
    return text;
  }

  #add<T extends Metric>(name: string, kind: MetricKind, help: string, labels: Labels, metric: T): T {
    if (typeof name !== "string" || !namePattern.test(name))
      throw invalid(`name is ${describe(name)}, expected ${namePattern.source}`);
    const names = Object.keys(labels).sort();
    for (const label of names) {
      if (!labelPattern.test(label))
        throw invalid(`label ${describe(label)} of ${name} is no label name, expected ${labelPattern.source}`);
    }
    const labelNames = names.join();
    const family = this.#families.get(name) ?? { kind, help, labelNames, metrics: new Map() };
    if (family.kind !== kind) throw invalid(`${name} is a ${family.kind} already, not a ${kind}`);
    if (family.labelNames !== labelNames)
      throw invalid(`${name} has labels "${labelNames}", expected "${family.labelNames}" as before`);
    const values = JSON.stringify(names.map((label) => labels[label]));
    if (family.metrics.has(values)) throw invalid(`${name} with these labels exists already; keep the one that was made`);
    family.metrics.set(values, { labels: { ...labels }, metric });
    this.#families.set(name, family);
    return metric;
  }
}

function sampleLines(name: string, labels: Labels, value: number | HistogramValue): string {
  if (typeof value === "number") return `${name}${labelText(labels)} ${numberText(value)}\n`;
  const buckets = value.bounds.map(
    (bound, i) => `${name}_bucket${labelText({ ...labels, le: numberText(bound) })} ${value.cumulative[i]}\n`,
  );
  buckets.push(`${name}_bucket${labelText({ ...labels, le: "+Inf" })} ${value.count}\n`);
  const own = labelText(labels);
  return `${buckets.join("")}${name}_sum${own} ${numberText(value.sum)}\n${name}_count${own} ${value.count}\n`;
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).map(([label, value]) => `${label}="${escapeLabel(value)}"`);
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}

const escapeHelp = (text: string): string => text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
const escapeLabel = (text: string): string => escapeHelp(text).replaceAll('"', '\\"');

function numberText(value: number): string {
  if (value === Number.POSITIVE_INFINITY) return "+Inf";
  return value === Number.NEGATIVE_INFINITY ? "-Inf" : String(value);
}

const invalid = (message: string): KvasirError => new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", message);
