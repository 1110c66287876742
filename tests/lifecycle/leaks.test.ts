/** The net under forgotten tensors: frees, and warns once. */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, test } from "vitest";
import { openDevice } from "../../lib/index.js";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

test("forgotten tensors are freed with one warning, disposed ones without", async () => {
  const warnings: (Error & { code?: string })[] = [];
  process.on("warning", (warning) => warnings.push(warning));
  using device = openDevice("cpu", { threads: 1 });
  const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 20));
  const leaks = (): typeof warnings => warnings.filter(({ code }) => code === "KVASIR_LEAK");
  const make = (count: number, isDisposed: boolean): void => {
    for (let i = 0; i < count; i++) {
      const tensor = device.zeros("bf16", [3, 4096]);
      if (isDisposed) tensor.dispose();
    }
  };
  make(50, true);
  for (let i = 0; i < 10; i++) {
    collect();
    await turn();
  }
  expect(leaks()).toEqual([]);
  make(50, false);
  expect(device.memory().allocatedBytes).toBeGreaterThan(40 * 3 * 4096 * 2);
  for (let i = 0; i < 50 && (leaks().length === 0 || device.memory().allocatedBytes > 3 * 4096 * 2 * 5); i++) {
    collect();
    await turn();
  }
  expect(device.memory().allocatedBytes).toBeLessThanOrEqual(3 * 4096 * 2 * 5);
  expect(leaks()).toHaveLength(1);
  expect(leaks()[0]?.message).toMatch(/Tensor bf16 \[3, 4096\] was garbage-collected without dispose\(\).*KVASIR_DEBUG=leaks/);
});
