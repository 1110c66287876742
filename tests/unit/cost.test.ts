/** Swap or recompute: the cheaper one by rates that follow what was measured. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { CostModel, RunningRate } from "../../lib/session/cost.js";

const positive = fc.double({ min: 1, max: 1e11, noNaN: true });

describe("a running rate", () => {
  test("is the guess until something was measured", () => {
    expect(new RunningRate(7).perSecond).toBeCloseTo(7, 12);
  });

  test("nears what is measured, whatever the guess", () => {
    fc.assert(
      fc.property(positive, positive, (guess, actual) => {
        const rate = new RunningRate(guess);
        for (let i = 0; i < 2000; i++) rate.add(actual * 0.1, 0.1);
        expect(Math.abs(rate.perSecond / actual - 1)).toBeLessThan(0.02);
      }),
    );
  });

  test("follows a change, and stays between the old and the new", () => {
    const rate = new RunningRate(100);
    for (let i = 0; i < 100; i++) rate.add(10, 0.1);
    let last = rate.perSecond;
    for (let i = 0; i < 200; i++) {
      rate.add(1, 0.1);
      expect(rate.perSecond).toBeLessThan(last);
      last = rate.perSecond;
    }
    expect(last).toBeGreaterThan(10);
    expect(last).toBeLessThan(15);
  });

  test("weighs a measurement by its length: many short ones count as one long one", () => {
    const [many, one] = [new RunningRate(1), new RunningRate(1)];
    for (let i = 0; i < 1000; i++) many.add(5e-4, 1e-4);
    one.add(0.5, 0.1);
    expect(many.perSecond / one.perSecond).toBeCloseTo(1, 1);
  });

  test("ignores measurements without length, amount or sense", () => {
    const rate = new RunningRate(3);
    for (const [amount, seconds] of [
      [1, 0],
      [0, 1],
      [1, -1],
      [Number.NaN, 1],
      [1, Number.NaN],
    ] as const)
      rate.add(amount, seconds);
    expect(rate.perSecond).toBeCloseTo(3, 12);
  });
});

describe("swap or recompute", () => {
  const cost = (): CostModel => new CostModel({ prefillTokens: 1000, bytesOut: 1e9, bytesIn: 2e9 });

  test("adds the dirty bytes out and all bytes in", () => {
    expect(cost().swapSeconds(1e9, 4e9)).toBeCloseTo(3, 12);
    expect(cost().recomputeSeconds(2500)).toBeCloseTo(2.5, 12);
  });

  test("takes the cheaper one, and a swap where both cost the same", () => {
    expect(cost().cheaper({ dirtyBytes: 1e9, bytes: 4e9, tokens: 2999 })).toBe("recompute");
    expect(cost().cheaper({ dirtyBytes: 1e9, bytes: 4e9, tokens: 3000 })).toBe("swap");
    expect(cost().cheaper({ dirtyBytes: 0, bytes: 4e9, tokens: 2001 })).toBe("swap");
  });

  test("changes its mind only for the better of the changed one", () => {
    fc.assert(
      fc.property(positive, positive, fc.integer({ min: 1, max: 1e6 }), (dirtyBytes, bytes, tokens) => {
        const sequence = { dirtyBytes, bytes, tokens };
        const [before, slower, faster] = [cost(), cost(), cost()];
        for (let i = 0; i < 50; i++) {
          slower.in.add(1e6, 0.1);
          faster.prefill.add(1e6, 0.1);
        }
        if (before.cheaper(sequence) === "recompute") {
          expect(slower.cheaper(sequence)).toBe("recompute");
          expect(faster.cheaper(sequence)).toBe("recompute");
        }
      }),
    );
  });

  test("has usable first guesses", () => {
    const { prefill, in: into, out } = new CostModel();
    for (const { perSecond } of [prefill, into, out]) expect(perSecond).toBeGreaterThan(0);
  });
});
