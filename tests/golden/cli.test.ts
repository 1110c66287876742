/** The commands, on every backend: what they print, and what they say when asked wrongly. */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, type MockInstance, test, vi } from "vitest";
import { runBench } from "../../bench/main.js";
import { runReport } from "../../bench/report.js";
import { bundledModel } from "../../lib/cli/common.js";
import { demo } from "../../lib/cli/demo.js";
import { doctor } from "../../lib/cli/doctor.js";
import { evaluate } from "../../lib/cli/eval.js";
import { generateCommand } from "../../lib/cli/generate.js";
import { type CacheMode, selectModes } from "../../lib/cli/modes.js";
import { openMode, type Swapping } from "../../lib/cli/swapping.js";
import { eachBackend } from "../device.js";
import { expectRejection } from "../expect_error.js";

let stdout: MockInstance;
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "kvasir-cli-"));
  vi.stubEnv("TMPDIR", folder);
});
afterAll(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});
beforeEach(() => {
  stdout = vi.spyOn(process.stdout, "write").mockReturnValue(true);
});
afterEach(() => stdout.mockRestore());

/** Slab files that a command left behind. */
const leftovers = (): string[] => readdirSync(folder);

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

eachBackend((device) => {
  const { backend } = device;
  const onDevice = ["--device", backend];

  test("demo answers questions and counts", async () => {
    expect(await demo([...onDevice, "--context", "1024", "--questions", "6", "--contexts", "2", "--mode", "all", "--json"])).toBe(
      0,
    );
    const result = JSON.parse(printed());
    expect(result).toMatchObject({ backend, contextTokens: 1024 });
    const names = ["identity", "identity-pre-rope", "swap-ddr", "swap-disk"];
    expect(result.modes.map(({ name }: { name: string }) => name)).toEqual(names);
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
    const [identity, , ...swapping] = result.modes;
    expect(identity.swaps).toBeUndefined();
    expect(identity.answers.length).toBe(6);
    for (const { answers, swaps, kvBytesPerToken } of swapping) {
      expect(answers).toEqual(identity.answers);
      // Before each question and before each context's answers, all of a context comes back, or nearly so.
      expect(swaps.switches).toBe(6 + 2);
      expect(swaps.bytesOut).toBeGreaterThan(2 * 900 * kvBytesPerToken);
      expect(swaps.bytesIn).toBeGreaterThan(8 * 700 * kvBytesPerToken);
      expect(swaps.secondsOut).toBeGreaterThan(0);
      expect(swaps.secondsIn).toBeGreaterThan(0);
    }
    expect(swapping.map(({ swaps }: { swaps: { tier: string } }) => swaps.tier)).toEqual(["ddr", "disk"]);
    expect(leftovers()).toEqual([]);
  });

  test.each(["swap-ddr", "swap-disk"])("%s fails where a sequence stays on the device", async (name) => {
    const [mode] = selectModes(name);
    const { model, swapping, close } = await openMode(device, bundledModel(), mode as CacheMode, { cacheTokens: 512 });
    try {
      using sequence = model.createSequence();
      (await model.prefill([{ sequence, tokens: model.encodePrompt("Call me Ishmael. ".repeat(30), true) }])).dispose();
      await (swapping as Swapping).switchAll([sequence]);
      using running = sequence.fork();
      await expectRejection(
        "ERR_KVASIR_INTERNAL",
        [/pages that left the device are 0, expected/],
        (swapping as Swapping).switchAll([sequence]),
      );
      running.dispose();
    } finally {
      await close();
    }
    expect(leftovers()).toEqual([]);
  });

  test("eval compares a mode with the exact cache", async () => {
    expect(await evaluate([...onDevice, "--context", "512", "--tail", "100", "--questions", "3"])).toBe(0);
    const result = JSON.parse(printed());
    expect(result).toMatchObject({ backend, model: "model", contextTokens: 512, mode: "identity", questions: 3, digits: 15 });
    expect(result.meanNll).toBeGreaterThan(2);
    expect(result.meanNll).toBeLessThan(5);
    expect(Math.abs(result.deltaNll)).toBeLessThan(0.02);
    expect(Math.abs(result.meanKl)).toBeLessThan(0.01);
    expect(result.top1Agreement).toBeGreaterThan(0.9);
  });

  test("generate streams text", async () => {
    expect(await generateCommand([...onDevice, "--max-tokens", "12", "--json", "Call", "me"])).toBe(0);
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
