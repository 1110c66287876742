import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { PagePool } from "../../lib/cache/page_pool.js";
import { registerPool } from "../../lib/cache/pool_events.js";
import { Histogram, type HistogramValue, Metrics } from "../../lib/observe/metrics.js";
import { expectError } from "../expect_error.js";

interface Parsed {
  help: Map<string, string>;
  types: Map<string, string>;
  samples: { name: string; labels: Record<string, string>; value: number }[];
}

const withoutEscapes = (text: string): string => text.replace(/\\(.)/g, (_, letter: string) => (letter === "n" ? "\n" : letter));

/** Reads exposition format 0.0.4 as its definition says, and refuses anything else. */
function parse(text: string): Parsed {
  const parsed: Parsed = { help: new Map(), types: new Map(), samples: [] };
  expect(text === "" || text.endsWith("\n")).toBe(true);
  for (const line of text.split("\n").slice(0, -1)) {
    const comment = /^# (HELP|TYPE) ([a-zA-Z_:][\w:]*) (.*)$/.exec(line);
    if (comment !== null) {
      const [, what, name, rest] = comment as unknown as [string, string, string, string];
      const map = what === "HELP" ? parsed.help : parsed.types;
      expect(map.has(name), `${what} of ${name} comes twice`).toBe(false);
      map.set(name, what === "HELP" ? withoutEscapes(rest) : rest);
      continue;
    }
    const sample = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (sample === null) throw new Error(`no sample: ${line}`);
    const labels: Record<string, string> = {};
    let rest = sample[2] ?? "";
    while (rest !== "") {
      const pair = /^([a-zA-Z_]\w*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)/.exec(rest);
      if (pair === null) throw new Error(`no labels: ${rest}`);
      labels[pair[1] as string] = withoutEscapes(pair[2] as string);
      rest = rest.slice(pair[0].length);
    }
    const number = (sample[3] as string).replace("Inf", "Infinity");
    expect(number === "NaN" || !Number.isNaN(Number(number))).toBe(true);
    parsed.samples.push({ name: sample[1] as string, labels, value: Number(number) });
  }
  return parsed;
}

describe("Metrics", () => {
  test("text says what snapshot says, whatever is in help, labels and values", () => {
    const any = fc.string({ unit: fc.constantFrom("a", '"', "\\", "\n", "{", "}", ",", "=", "é", " ", "n") });
    const value = fc.oneof(fc.double(), fc.integer());
    fc.assert(
      fc.property(
        any,
        fc.uniqueArray(fc.tuple(any, any), { maxLength: 4, selector: JSON.stringify }),
        value,
        (help, labels, number) => {
          const metrics = new Metrics();
          for (const [a, b] of labels) metrics.gauge("kvasir_x", help, { a, b }).set(number);
          const { samples, help: helps, types } = parse(metrics.text());
          expect(samples).toEqual(
            labels.map(([a, b]) => ({ name: "kvasir_x", labels: { a, b }, value: number === 0 ? 0 : number })),
          );
          expect(metrics.snapshot().map((sample) => sample.labels)).toEqual(samples.map((sample) => sample.labels));
          if (labels.length > 0) expect([helps.get("kvasir_x"), types.get("kvasir_x")]).toEqual([help, "gauge"]);
        },
      ),
    );
  });

  test("counters rise, and may be read from elsewhere", () => {
    const metrics = new Metrics();
    let elsewhere = 5;
    const own = metrics.counter("a_total", "own");
    const other = metrics.counter("b_total", "other", {}, () => elsewhere);
    own.add();
    own.add(2.5);
    elsewhere = 7;
    expect(metrics.snapshot().map(({ name, kind, value }) => [name, kind, value])).toEqual([
      ["a_total", "counter", 3.5],
      ["b_total", "counter", 7],
    ]);
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["amount is -1", "only rises"], () => own.add(-1));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["amount is NaN"], () => own.add(Number.NaN));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["cannot be added to"], () => other.add());
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["cannot be set"], () => metrics.gauge("c", "", {}, () => 1).set(1));
  });

  test("a histogram counts each value in every bucket that it fits in", () => {
    fc.assert(
      fc.property(
        fc
          .uniqueArray(fc.integer({ min: -50, max: 50 }), { minLength: 1, maxLength: 8 })
          .map((bounds) => bounds.sort((a, b) => a - b)),
        fc.array(fc.integer({ min: -60, max: 60 })),
        (bounds, values) => {
          const metrics = new Metrics();
          const histogram = metrics.histogram("t", "", bounds, { path: "x" });
          for (const value of values) histogram.observe(value);
          const cumulative = bounds.map((bound) => values.filter((value) => value <= bound).length);
          const sum = values.reduce((total, value) => total + value, 0);
          expect(histogram.value).toEqual({ bounds, cumulative, sum, count: values.length });
          const { samples } = parse(metrics.text());
          const le = [...bounds.map(String), "+Inf"];
          expect(samples).toEqual([
            ...le.map((bound, i) => ({
              name: "t_bucket",
              labels: { path: "x", le: bound },
              value: cumulative[i] ?? values.length,
            })),
            { name: "t_sum", labels: { path: "x" }, value: sum },
            { name: "t_count", labels: { path: "x" }, value: values.length },
          ]);
        },
      ),
    );
  });

  test("what is not a number is counted in no bucket", () => {
    const histogram = new Histogram([1]);
    histogram.observe(Number.NaN);
    const value: HistogramValue = histogram.value;
    expect([value.count, value.cumulative, value.sum]).toEqual([1, [0], Number.NaN]);
  });

  test("bad names, labels, kinds and bounds are refused", () => {
    const metrics = new Metrics();
    metrics.gauge("good", "", { tier: "ddr" });
    const refused: [RegExp, () => unknown][] = [
      [/name is "9x"/, () => metrics.gauge("9x", "")],
      [/label "a-b" of m/, () => metrics.gauge("m", "", { "a-b": "" })],
      [/label "__x" of m/, () => metrics.gauge("m", "", { __x: "" })],
      [/good is a gauge already, not a counter/, () => metrics.counter("good", "", { tier: "hbm" })],
      [/good has labels "", expected "tier"/, () => metrics.gauge("good", "")],
      [/exists already/, () => metrics.gauge("good", "", { tier: "ddr" })],
      [/bounds are \[2, 1\]/, () => metrics.histogram("h", "", [2, 1])],
      [/bounds are \[\]/, () => metrics.histogram("h", "", [])],
      [/include le/, () => metrics.histogram("h", "", [1], { le: "1" })],
    ];
    for (const [message, action] of refused) expectError("ERR_KVASIR_INVALID_ARGUMENT", [message], action);
    expect(metrics.snapshot().length).toBe(1);
  });

  test("a pool's counts are read when asked for", () => {
    const metrics = new Metrics();
    const pool = new PagePool({ slots: [4, 2], pageSize: 16 });
    registerPool(metrics, pool, 3, ["hbm", "ddr"]);
    pool.take();
    const of = (name: string, label: string, is: string): number | undefined =>
      parse(metrics.text()).samples.find((sample) => sample.name === name && sample.labels[label] === is)?.value;
    expect([of("kvasir_pages", "state", "active"), of("kvasir_pages", "state", "free")]).toEqual([1, 5]);
    expect([of("kvasir_slots_used", "tier", "hbm"), of("kvasir_slots", "tier", "ddr")]).toEqual([1, 2]);
    pool.take();
    expect(of("kvasir_slots_used", "tier", "hbm")).toBe(2);
  });
});
