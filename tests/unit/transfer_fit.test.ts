/** The fit of transfer times, and the path that follows. */
import { describe, expect, test } from "vitest";
import { type CopyPath, measureTransferPaths, openDevice } from "../../lib/index.js";
import { type PathSample, TransferPaths, copyPaths, defaultFits, fitAll, fitPath, timeOf } from "../../lib/transfer_fit.js";
import { random } from "../attention_cases.js";
import { expectRejection } from "../expect_error.js";

const seed = Number(process.env.KVASIR_TEST_SEED ?? Date.now() % 1_000_000);
const sizes = Array.from({ length: 13 }, (_, i) => 4096 * 2 ** i);

describe("fitPath", () => {
  test("finds the line that the times were made of", () => {
    const draw = random(seed);
    for (let round = 0; round < 200; round++) {
      const truth = { alphaUs: 10 * draw(), betaGbPerS: 1 + 99 * draw() };
      const fit = fitPath(sizes.map((bytes) => ({ bytes, us: timeOf(truth, bytes) })));
      expect(fit.alphaUs).toBeCloseTo(truth.alphaUs, 6);
      expect(fit.betaGbPerS / truth.betaGbPerS).toBeCloseTo(1, 6);
    }
  });

  test("with noise of 3 % stays within 6 % of the truth at every size", () => {
    const draw = random(seed + 1);
    const truth = { alphaUs: 3.7, betaGbPerS: 51.5 };
    for (let round = 0; round < 200; round++) {
      const fit = fitPath(sizes.map((bytes) => ({ bytes, us: timeOf(truth, bytes) * (0.97 + 0.06 * draw()) })));
      for (const bytes of sizes) expect(Math.abs(timeOf(fit, bytes) / timeOf(truth, bytes) - 1)).toBeLessThan(0.06);
    }
  });

  test("neither constant is negative, whatever the times", () => {
    const falling = fitPath([
      { bytes: 4096, us: 10 },
      { bytes: 65536, us: 5 },
    ]);
    expect(falling.alphaUs).toBeGreaterThan(0);
    expect(falling.betaGbPerS).toBeGreaterThan(0);
    const steep = fitPath([
      { bytes: 4096, us: 1 },
      { bytes: 8192, us: 4 },
    ]);
    expect(steep.alphaUs).toBe(0);
    expect(steep.betaGbPerS).toBeGreaterThan(0);
    const single = fitPath([{ bytes: 1000, us: 2 }]);
    expect(timeOf(single, 1000)).toBeCloseTo(2, 9);
  });
});

/** Samples of lines that cross. */
const crossing: Record<CopyPath, { alphaUs: number; betaGbPerS: number }> = {
  dma: { alphaUs: 4, betaGbPerS: 52 },
  batch: { alphaUs: 1.5, betaGbPerS: 49 },
  kernel: { alphaUs: 0.2, betaGbPerS: 40 },
};
const samplesOf = (bytes: readonly number[]): PathSample[] =>
  bytes.flatMap((size) =>
    (["in", "out"] as const).flatMap((direction) =>
      copyPaths.map((path) => ({ direction, path, bytes: size, us: timeOf(crossing[path], size) })),
    ),
  );

describe("TransferPaths", () => {
  const samples = samplesOf([4096, 65536, 2 ** 20, 2 ** 24]);
  const measured = new TransferPaths(fitAll(samples), samples);

  test("chooses within 5 % of the fastest at every size, seen and unseen", () => {
    for (const direction of ["in", "out"] as const) {
      for (let bytes = 512; bytes <= 2 ** 26; bytes = Math.ceil(bytes * 1.07)) {
        const chosen = timeOf(crossing[measured.choose(direction, bytes, 100)], bytes);
        expect(chosen).toBeLessThanOrEqual(1.05 * Math.min(...copyPaths.map((path) => timeOf(crossing[path], bytes))));
      }
    }
  });

  test("leaves multiprocessors alone where a copy engine is as fast, and takes each path somewhere", () => {
    expect(new Set(sizes.map((bytes) => measured.choose("in", bytes, 100)))).toEqual(new Set(["kernel", "batch", "dma"]));
    const equal = { alphaUs: 1, betaGbPerS: 50 };
    const same = new TransferPaths({
      in: { dma: equal, batch: equal, kernel: { alphaUs: 0.99, betaGbPerS: 50 } },
      out: { dma: equal, batch: equal, kernel: equal },
    });
    expect(same.choose("in", 4096, 100)).toBe("dma");
  });

  test("predicts times between the sizes that were measured", () => {
    for (const bytes of [5000, 100_000, 3_000_000]) {
      expect(measured.predictUs("dma", "in", bytes, 7)).toBeCloseTo(7 * timeOf(crossing.dma, bytes), 6);
    }
    expect(measured.predictUs("kernel", "out", 2 ** 27)).toBeCloseTo(timeOf(crossing.kernel, 2 ** 27), 3);
  });

  test("before a measurement the documented defaults hold: kernel for small pages, copy engines for large ones", () => {
    const paths = new TransferPaths(defaultFits);
    expect(paths.measured).toBe(false);
    for (const direction of ["in", "out"] as const) {
      expect(paths.choose(direction, 8192, 1000)).toBe("kernel");
      expect(paths.choose(direction, 2 ** 24, 1000)).toBe("dma");
    }
  });
});

test("a CPU device is measured too, once, and rejects what is no device", async () => {
  using cpu = openDevice("cpu", { threads: 2 });
  const paths = await measureTransferPaths(cpu, cpu);
  expect(paths.measured).toBe(true);
  expect(paths.fits.in.dma.betaGbPerS).toBeGreaterThan(0);
  expect(paths.choose("in", 4096, 10)).toBe("dma");
  expect(await measureTransferPaths(cpu, cpu)).toBe(paths);
  await expectRejection("ERR_KVASIR_INVALID_ARGUMENT", ["device is null"], measureTransferPaths(null as never, cpu));
  await expectRejection("ERR_KVASIR_INVALID_ARGUMENT", ["cpu is an object"], measureTransferPaths(cpu, {} as never));
});
