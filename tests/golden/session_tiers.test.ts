/** Sessions whose pages go through a tiny host pool to disk and back, again and again, and get the tokens of an uncontended run. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type CacheTiers, type Model, Scheduler, type SchedulerOptions, type SchedulerStats } from "../../lib/index.js";
import { eachBackend } from "../device.js";
import { golden } from "./golden.js";
import { conversedAlone, converse, exactModel, pageSize, type Plan, plans } from "./session_runs.js";

/** Fewer pages than any session has at its end. */
const hostPages = 6;

eachBackend((device) => {
  let folder: string;
  let of: Plan[];
  let expected: number[][][];
  let pageBytes: number;
  /** Copies look as if they cost nothing, so that whoever gives way is swapped out. */
  const rates = { bytesOut: 1e15, bytesIn: 1e15, prefillTokens: 1 };
  const options: SchedulerOptions = { growthPages: 0, watermark: 0, prefillTokens: 64, rates };

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "kvasir-session-tiers-"));
    const ids = [...(await golden("ids_1024")).ints];
    of = plans(ids, 6, 40).map((plan) => ({ ...plan, text: plan.text.slice(0, 40) }));
    using large = await exactModel(device, 400);
    pageBytes = large.cache.groups[0]?.format.pageBytes as number;
    expected = await conversedAlone(large, of);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const open = (name: string): Promise<Model> =>
    exactModel(device, 33, {
      host: { bytes: hostPages * pageBytes },
      disk: { path: join(folder, `${name}-${device.backend}`), maxBytes: 200 * pageBytes },
    });

  /** All conversations at once. Another sequence of the cache leaves room for 14 pages, where each ends with about 9. */
  async function together(model: Model): Promise<{ answers: number[][][]; stats: SchedulerStats }> {
    using other = model.createSequence();
    other.reserve(19 * pageSize);
    const scheduler = new Scheduler(model, options);
    try {
      const answers = await Promise.all(of.map((plan, i) => converse(scheduler.open(), plan, i)));
      return { answers, stats: scheduler.stats() };
    } finally {
      await scheduler.close();
      other.dispose();
      await model.tiers?.idle();
      model.cache.checkIntegrity();
    }
  }

  describe("sessions over a host pool and a disk", () => {
    test("get the tokens of an uncontended run, though all give way by swaps", async () => {
      const model = await open("swaps");
      const { answers, stats } = await together(model);
      expect(answers).toEqual(expected);
      expect(stats.swapPreemptions).toBeGreaterThan(0);
      expect(stats.recomputePreemptions).toBe(0);
      const { moves, keyed, foundTokens, lostTokens } = (model.tiers as CacheTiers).stats();
      expect(moves.failures).toBe(0);
      expect(moves.outBytes).toBeGreaterThan(hostPages * pageBytes);
      expect(moves.inBytes).toBeGreaterThan(hostPages * pageBytes);
      expect(keyed.disk).toMatchObject({ damaged: 0, failures: 0, misses: 0 });
      expect(keyed.disk?.storedBytes).toBeGreaterThan(hostPages * pageBytes);
      expect(keyed.disk?.loadedBytes).toBeGreaterThan(0);
      expect(foundTokens.disk).toBeGreaterThan(0);
      expect(lostTokens).toBe(0);
      await model.close();
    });

    test("get them again from what an earlier model left on disk", async () => {
      const first = await open("restart");
      expect((await together(first)).answers).toEqual(expected);
      await first.close();
      const second = await open("restart");
      expect((await together(second)).answers).toEqual(expected);
      expect(second.tiers?.stats().adoptedTokens).toBeGreaterThan(0);
      await second.close();
    });
  });
});
