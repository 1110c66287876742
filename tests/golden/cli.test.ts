/** The commands, on every backend: what they print, and what they say when asked wrongly. */
import { afterEach, beforeEach, describe, expect, type MockInstance, test, vi } from "vitest";
import { runBench } from "../../bench/main.js";
import { runReport } from "../../bench/report.js";
import { demo } from "../../lib/cli/demo.js";
import { doctor } from "../../lib/cli/doctor.js";
import { evaluate } from "../../lib/cli/eval.js";
import { generateCommand } from "../../lib/cli/generate.js";
import { eachBackend } from "../device.js";
import { expectRejection } from "../expect_error.js";

let stdout: MockInstance;
beforeEach(() => {
  stdout = vi.spyOn(process.stdout, "write").mockReturnValue(true);
});
afterEach(() => stdout.mockRestore());

const printed = (): string => stdout.mock.calls.map(([text]) => String(text)).join("");

test("doctor names the layers, and the backend that is taken", async () => {
  expect(await doctor(["--json"])).toBe(0);
  const report = JSON.parse(printed());
  expect(report.layers.map(({ layer }: { layer: string }) => layer)).toEqual(
    expect.arrayContaining(["addon", "cpu", "cpu threads"]),
  );
  expect(["cpu", "cuda"]).toContain(report.best);
  expect(report.advice).toMatch(/\.$/);
});

test.each([
  ["doctor", doctor],
  ["generate", generateCommand],
  ["demo", demo],
  ["eval", evaluate],
  ["bench", runBench],
  ["report", runReport],
])("%s --help tells the options", async (name, command) => {
  expect(await command(["--help"])).toBe(0);
  expect(printed().startsWith(`usage: kvasir ${name} `)).toBe(true);
});

eachBackend(({ backend }) => {
  const device = ["--device", backend];

  test("demo answers questions and counts", async () => {
    expect(await demo([...device, "--context", "1024", "--questions", "6", "--contexts", "2", "--mode", "all", "--json"])).toBe(
      0,
    );
    const result = JSON.parse(printed());
    expect(result).toMatchObject({ backend, contextTokens: 1024 });
    expect(result.modes.map(({ name }: { name: string }) => name)).toEqual(["identity", "identity-pre-rope"]);
    for (const mode of result.modes) {
      expect(mode).toMatchObject({ questions: 6, digits: 30 });
      expect(mode.digitsRight).toBeGreaterThanOrEqual(27);
      expect(mode.right).toBeLessThanOrEqual(6);
      const bytes = backend === "cuda" ? 2 : 4;
      expect(mode.kvBytesPerToken).toBe(12 * 2 * 2 * 64 * bytes);
      expect(mode.kvBytesPeak).toBeGreaterThan(1024 * mode.kvBytesPerToken);
      expect(mode.prefillTokensPerSecond).toBeGreaterThan(0);
      expect(mode.decodeTokensPerSecond).toBeGreaterThan(0);
    }
  });

  test("eval compares a mode with the exact cache", async () => {
    expect(await evaluate([...device, "--context", "512", "--tail", "100", "--questions", "3"])).toBe(0);
    const result = JSON.parse(printed());
    expect(result).toMatchObject({ backend, model: "model", contextTokens: 512, mode: "identity", questions: 3, digits: 15 });
    expect(result.meanNll).toBeGreaterThan(2);
    expect(result.meanNll).toBeLessThan(5);
    expect(Math.abs(result.deltaNll)).toBeLessThan(0.02);
    expect(Math.abs(result.meanKl)).toBeLessThan(0.01);
    expect(result.top1Agreement).toBeGreaterThan(0.9);
  });

  test("generate streams text", async () => {
    expect(await generateCommand([...device, "--max-tokens", "12", "--json", "Call", "me"])).toBe(0);
    const { tokens, text, promptTokens } = JSON.parse(printed());
    expect([tokens, promptTokens > 2, text.length > 12]).toEqual([12, true, true]);
  });
});

describe("wrong usage", () => {
  test.each([
    [["--mode", "exact"], /--mode names exact, expected all or some of identity/],
    [["--questions", "many"], /--questions is "many", expected a number of at least 1/],
    [["--questions", "2.5"], /--questions is 2\.5, expected an integer/],
    [["--questions", "40", "--contexts", "2"], /40 questions in 2 contexts, expected at most 16 each; raise --contexts/],
    [["--context", "400", "--questions", "16", "--contexts", "1"], /--context is 400, expected room for 16 facts/],
    [["--device", "gpu"], /kind is "gpu", expected "cpu", "cuda"/],
  ])("demo %j", async (args, message) => {
    await expectRejection("ERR_KVASIR_INVALID_ARGUMENT", [message], demo(["--device", "cpu", ...args]));
  });

  test("report of a file that is not there", () => {
    const stderr = vi.spyOn(process.stderr, "write").mockReturnValue(true);
    expect(runReport(["none.json"])).toBe(2);
    expect(stderr.mock.calls.map(([text]) => String(text)).join("")).toMatch(/^no result file "none\.json"; .*\n$/);
    stderr.mockRestore();
  });

  test("demo with an option that does not exist", async () => {
    await expect(demo(["--contxt", "100"])).rejects.toMatchObject({ code: "ERR_PARSE_ARGS_UNKNOWN_OPTION" });
  });
});
