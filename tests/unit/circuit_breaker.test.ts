/** The circuit breaker in made-up time. */
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { CircuitBreaker } from "../../lib/cache/circuit_breaker.js";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

const make = (probe: () => Promise<boolean>, opened: string[] = []): CircuitBreaker =>
  new CircuitBreaker({ failures: 3, backoffMs: 100, maxBackoffMs: 1000, probe, onOpen: (reason) => opened.push(reason) });

test("opens after failures in a row, not after as many in all", () => {
  const opened: string[] = [];
  const breaker = make(async () => true, opened);
  for (let i = 0; i < 10; i++) {
    breaker.failed(0, "a");
    breaker.failed(0, "b");
    breaker.succeeded(0);
  }
  expect([breaker.isClosed, breaker.epoch]).toEqual([true, 0]);
  for (const reason of ["a", "b", "c", "d"]) breaker.failed(0, reason);
  expect([breaker.isClosed, breaker.epoch, opened]).toEqual([false, 1, ["c"]]);
});

test("closes when a probe is answered, and counts anew; what was asked before it opened says nothing", async () => {
  const breaker = make(async () => true);
  breaker.open("gone");
  await vi.advanceTimersByTimeAsync(100);
  expect(breaker.isClosed).toBe(true);
  for (let i = 0; i < 5; i++) breaker.failed(0, "late");
  breaker.failed(1, "new");
  breaker.failed(1, "new");
  breaker.succeeded(0);
  expect(breaker.isClosed).toBe(true);
  breaker.failed(1, "new");
  expect(breaker.isClosed).toBe(false);
});

test("probes after pauses that double up to the longest, each 50 to 100 % of that, and one probe at a time", async () => {
  for (const [random, share] of [
    [0, 0.5],
    [1 - 1e-9, 1],
  ] as const) {
    vi.spyOn(Math, "random").mockReturnValue(random);
    const probes: number[] = [];
    const begin = Date.now();
    const breaker = make(async () => {
      probes.push(Date.now() - begin);
      await new Promise((resolve) => setTimeout(resolve, 50));
      return false;
    });
    breaker.open("gone");
    breaker.open("gone again");
    await vi.advanceTimersByTimeAsync(6000);
    const pauses = probes.map((at, i) => at - (i === 0 ? 0 : (probes[i - 1] as number) + 50));
    const expected = [100, 200, 400, 800, 1000, 1000].map((ms) => ms * share);
    for (const [i, ms] of expected.entries()) {
      if (pauses[i] !== undefined) expect(Math.abs((pauses[i] as number) - ms)).toBeLessThanOrEqual(1);
    }
    expect(probes.length).toBeGreaterThanOrEqual(6);
    breaker.stop();
  }
});

test("stopped, it stays open and probes no more, also when a probe was under way", async () => {
  const probe = vi.fn(async () => {
    await new Promise((resolve) => setTimeout(resolve, 50));
    return true;
  });
  const breaker = make(probe);
  breaker.open("gone");
  await vi.advanceTimersByTimeAsync(110);
  expect(probe).toHaveBeenCalledTimes(1);
  breaker.stop();
  await vi.advanceTimersByTimeAsync(10_000);
  expect([breaker.isClosed, probe.mock.calls.length]).toEqual([false, 1]);
});
