/** The tiers under random operations against a model; `npm run soak` does the same for as long as is wanted. */
import { randomInt } from "node:crypto";
import { describe, expect, test } from "vitest";
import { report, shrink } from "../tiers/shrink.js";
import { formerFailures } from "../tiers/former_failures.js";
import { finish, settle } from "../tiers/laws.js";
import { step } from "../tiers/model_step.js";
import { resume } from "../tiers/returning.js";
import { randomTrace, replay } from "../tiers/trace.js";
import { pageSize, type Sabotage, sabotages, World, type WorldConfig } from "../tiers/world.js";

/** Steps of a world, and worlds of a kind. */
const steps = 4000;
const worlds = 14;

const none = { hostPages: 0, farPages: 0, disk: 0, remote: 0 };
const kinds: Record<string, Partial<WorldConfig>> = {
  "any tiers": {},
  "a host pool and a disk that keeps everything": { hostPages: 9, farPages: 200, disk: 1e9, remote: 0, faults: false },
  "a host pool, a small disk and a shared store, with faults": { hostPages: 7, farPages: 20, disk: 12, remote: 40, faults: true },
  "a host pool alone": { ...none, hostPages: 12 },
  "a disk right under the device pool": { ...none, farPages: 100, disk: 1e9 },
  "nothing below the device pool": none,
};

describe("a cache with tiers behaves as texts do, and its books balance, after any operations", () => {
  test.each(Object.entries(kinds))("with %s", async (_name, change) => {
    const first = randomInt(2 ** 31);
    const deeds = new Map<string, number>();
    for (let seed = first; seed < first + worlds; seed++) {
      const trace = randomTrace(seed, steps, change);
      const { failure } = await replay(trace, { deeds });
      if (failure !== undefined) throw new Error(`seed ${seed}: ${report(await shrink(trace))}`);
    }
    // What was to be met was met: a world in which nothing moves proves nothing.
    for (const deed of ["reads", "resumed", "adopted"]) expect(deeds.get(deed), deed).toBeGreaterThan(worlds);
    if ((change.hostPages ?? 0) > 0) {
      expect(deeds.get("outPages")).toBeGreaterThan(worlds);
      expect(deeds.get("inPages")).toBeGreaterThan(worlds);
    }
    if (change.disk === 1e9) expect(deeds.get("tokens from disk")).toBeGreaterThan(worlds);
    if (change.faults === true) expect(deeds.get("cut")).toBeGreaterThan(0);
  });

  test.each(formerFailures)("where it once did not: $why", async ({ trace }) => {
    const { failure } = await replay(trace);
    expect(failure).toBeUndefined();
  });
});

test("a sequence comes back though its own pages fill the host pool and another's the device", async () => {
  const sizes = { devicePages: 10, hostPages: 4, farPages: 100, disk: 1e9, remote: 0 };
  const world = new World({ ...sizes, groups: 1, policy: "lru", admitAtSecondUse: false, faults: false });
  const [first, second] = [world.open(0, 0), world.open(1, 1)];
  expect(step(world, [first], [8 * pageSize], 1)).toBe(true);
  world.track(
    "swapOut",
    world.manager.swapOut(first.sequence),
    () => undefined,
    () => false,
  );
  await settle(world, 1);
  expect(step(world, [second], [10 * pageSize], 1)).toBe(true);
  world.manager.suspend(second.sequence);
  const { pool } = world.cache.groups[0] as (typeof world.cache.groups)[number];
  expect([pool.freeSlots(0), pool.freeSlots(1)]).toEqual([0, 0]);
  first.state = "away";
  resume(world, first, undefined, (error) => expect(error).toBeUndefined());
  await settle(world, 2);
  await finish(world, 3);
  expect(world.failure).toBeUndefined();
  expect(world.deeds.resumed).toBe(1);
});

describe("a mistake is found and its trace shortened", () => {
  const kindOf: Record<Sabotage, Partial<WorldConfig>> = {
    "no-hold": { hostPages: 9, disk: 0, remote: 0 },
    "no-edge": { hostPages: 9 },
    "early-end": { hostPages: 9 },
    "no-quiet": { hostPages: 0, disk: 1e9 },
  };
  test.each(sabotages)("%s", async (sabotage) => {
    const change = { ...kindOf[sabotage], faults: false, sabotage };
    const first = randomInt(2 ** 31);
    for (let seed = first; seed < first + 40; seed++) {
      const trace = randomTrace(seed, steps, change);
      const { failure } = await replay(trace);
      if (failure === undefined) continue;
      const shrunk = await shrink(trace, 1500);
      expect(shrunk.trace.steps.length, report(shrunk)).toBeLessThan(40);
      expect((await replay(shrunk.trace)).failure).toBeDefined();
      expect((await replay({ ...shrunk.trace, config: { ...trace.config, sabotage: undefined } })).failure).toBeUndefined();
      return;
    }
    throw new Error(`${sabotage} was not found from seed ${first} on: these worlds could not see it`);
  });
});
