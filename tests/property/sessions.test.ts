/** Laws of the scheduler, on a made-up model in simulated time: whoever shares the device gets what it would get alone, and everyone ends. */
import { describe, expect, test } from "vitest";
import {
  DeviceOnlyStore,
  type Model,
  type Resumption,
  Scheduler,
  type SchedulerOptions,
  type Sequence,
  type Session,
} from "../../lib/index.js";
import { FakeEngine, type FakeOptions, FakeTime, fakeScheduler } from "./fake_engine.js";
import { converseAll, makeScripts, randomFrom, type Script } from "./session_script.js";

const seeds = Array.from({ length: 24 }, (_, i) => i + 1);
const large = 4096;

/** Answers of each script alone on a large cache. */
async function alone(scripts: readonly Script[], fake: Partial<FakeOptions>): Promise<(number[] | "aborted")[][]> {
  const answers = [];
  for (const script of scripts) {
    const { scheduler, time } = fakeScheduler({ ...fake, maxPages: large });
    answers.push(...(await converseAll(scheduler, [script], time)));
    await scheduler.close();
  }
  return answers;
}

async function together(scripts: readonly Script[], fake: Parameters<typeof fakeScheduler>[0], options: SchedulerOptions = {}) {
  const { scheduler, engine, time, tiers } = fakeScheduler(fake, options);
  let work = 0;
  engine.onWork = () => {
    if (++work % 7 === 0) engine.cache.checkIntegrity();
  };
  const answers = await converseAll(scheduler, scripts, time);
  const stats = scheduler.stats();
  await scheduler.close();
  engine.cache.checkIntegrity();
  expect(engine.cache.stats().usedBytes, "pages left").toBe(0);
  expect(engine.batchSize, "members left").toBe(0);
  expect(tiers?.problems ?? []).toEqual([]);
  return { answers, stats, swaps: tiers?.swaps };
}

/** Most pages that any script needs at once. */
function largestNeed(scripts: readonly Script[], pageSize: number): number {
  return Math.max(
    ...scripts.map(({ turns }) => {
      const tokens = turns.reduce((sum, { read, question, maxTokens }) => sum + read.length + question.length + maxTokens, 0);
      return Math.ceil(tokens / pageSize);
    }),
  );
}

/** The scripts as they went: a question that was aborted is as if it had never been asked. */
const asTheyWent = (scripts: readonly Script[], answers: readonly (readonly (number[] | "aborted")[])[]): Script[] =>
  scripts.map((script, i) => ({
    ...script,
    turns: script.turns.map(({ abortAfterMs: _, ...turn }, k) =>
      answers[i]?.[k] === "aborted" ? { ...turn, maxTokens: 0 } : turn,
    ),
  }));

describe("sessions that share the device", () => {
  test.each(seeds)("get the answers that they get alone, however scarce pages are (seed %i)", async (seed) => {
    const random = randomFrom(seed);
    const fake = { pageSize: 16, passTokens: 24 + (seed % 5) * 10 };
    const scripts = makeScripts(random, { sessions: 12, read: 60, make: 50, turns: 4 });
    const maxPages = largestNeed(scripts, 16) + (seed % 4) * 4;
    const options = { growthPages: seed % 3, watermark: 0, guardTokens: 8, maxBatch: 2 + (seed % 8), prefillTokens: 20 };
    const { answers, stats } = await together(scripts, { ...fake, maxPages }, options);
    expect(answers).toEqual(await alone(scripts, fake));
    expect(stats.recomputedTokens).toBeGreaterThan(0);
  });

  test.each(seeds)("are untouched by questions that others, or they, break off (seed %i)", async (seed) => {
    const random = randomFrom(1000 + seed);
    const fake = { pageSize: 16 };
    const scripts = makeScripts(random, { sessions: 10, read: 60, make: 40, turns: 5, broken: 0.5 });
    const maxPages = largestNeed(scripts, 16) + (seed % 3) * 6;
    const { answers } = await together(scripts, { ...fake, maxPages }, { growthPages: 0, watermark: 0, prefillTokens: 16 });
    expect(answers).toEqual(await alone(asTheyWent(scripts, answers), fake));
  });

  test.each(seeds)(
    "all end when they want 2 to 10 times the pages that there are, with few preemptions (seed %i)",
    async (seed) => {
      const random = randomFrom(2000 + seed);
      const scripts = makeScripts(random, { sessions: 24, read: 100, make: 60, turns: 1 }).map((script) => ({
        ...script,
        startMs: 0,
      }));
      const total = scripts.reduce((sum, script) => sum + largestNeed([script], 16), 0);
      const maxPages = Math.max(largestNeed(scripts, 16), Math.ceil(total / (2 + (seed % 9))));
      const { answers, stats } = await together(scripts, { maxPages }, {});
      expect(answers.flat().length).toBe(24);
      expect(stats.mostPreemptions).toBeLessThanOrEqual(4);
    },
  );
});

describe("forks", () => {
  /** Each of several contexts is forked, and its forks ask at once; the first fork is forked again. */
  const family = async (scheduler: Scheduler, contexts: number, seed: number): Promise<number[][]> => {
    const random = randomFrom(seed);
    const some = (count: number): number[] => Array.from({ length: count }, () => 1 + Math.floor(random() * 30));
    const texts = Array.from({ length: contexts }, () => some(30 + Math.floor(random() * 60)));
    const questions = texts.map(() => Array.from({ length: 4 }, () => some(1 + Math.floor(random() * 20))));
    const ask = async (session: Session, tokens: readonly number[]): Promise<number[]> =>
      (await session.ask(tokens, { maxTokens: 30, stopTokens: [0] }).result).tokens;
    const one = async (index: number): Promise<number[][]> => {
      const parent = scheduler.open();
      await parent.prefill(texts[index] as number[]);
      const [a, b, c, d] = questions[index] as [number[], number[], number[], number[]];
      const forks = [parent.fork(), parent.fork(), parent.fork()] as [Session, Session, Session];
      const answers = await Promise.all([ask(forks[0], a), ask(forks[1], b), ask(forks[2], c), ask(parent, d)]);
      const grandchild = forks[0].fork();
      await forks[0].close();
      answers.push(await ask(grandchild, d));
      return answers;
    };
    return (await Promise.all(texts.map((_, i) => one(i)))).flat();
  };

  test.each(seeds)("and their parents get the same on scarce pages as on many (seed %i)", async (seed) => {
    const many = fakeScheduler({ maxPages: large });
    const scarce = fakeScheduler({ maxPages: 12 + (seed % 7) }, { growthPages: 0, watermark: 0 });
    const expected = await family(many.scheduler, 5, seed);
    expect(await family(scarce.scheduler, 5, seed)).toEqual(expected);
    expect(scarce.scheduler.stats().droppedPages).toBeGreaterThan(0);
    for (const { scheduler, engine } of [many, scarce]) {
      await scheduler.close();
      engine.cache.checkIntegrity();
      expect(engine.cache.stats().usedBytes).toBe(0);
    }
  });
});

describe("a device that fails", () => {
  test.each([1, 5, 9])("ends all requests with what it said, and later ones too (after %i calls)", async (calls) => {
    const { scheduler, engine } = fakeScheduler({ maxPages: 40 });
    const lost = new Error("lost");
    let work = 0;
    engine.onWork = () => {
      if (++work > calls) throw lost;
    };
    const sessions = [1, 2, 3].map(() => scheduler.open());
    const answers = sessions.map((session) => session.ask([1, 2, 3], { maxTokens: 50, stopTokens: [] }));
    for (const { result } of answers) await expect(result).rejects.toBe(lost);
    expect(() => sessions[0]?.ask([1])).toThrow(lost);
    await scheduler.close();
  });
});

describe("sessions over a tier below the device", () => {
  test.each(seeds)(
    "get the answers that they get alone, with late copies, lost ends and questions broken off (seed %i)",
    async (seed) => {
      const random = randomFrom(3000 + seed);
      const fake = { pageSize: 16 };
      const broken = seed % 2 === 0 ? 0.3 : 0;
      const scripts = makeScripts(random, { sessions: 14, read: 60, make: 50, turns: 4, broken });
      const devicePages = largestNeed(scripts, 16) + (seed % 4) * 4;
      // Copies that cost less or more than reading again, or now this, now that.
      const rates = { bytesOut: 10 ** (seed % 6), bytesIn: 10 ** (seed % 6), prefillTokens: 1000 };
      const options = { growthPages: seed % 3, watermark: 0, guardTokens: 8, maxBatch: 2 + (seed % 8), prefillTokens: 20, rates };
      const faults = { lost: seed % 4 === 0 ? 0.3 : 0, full: seed % 5 === 0 ? 0.2 : 0 };
      const { answers, swaps } = await together(scripts, { ...fake, maxPages: large, devicePages, faults, random }, options);
      expect(answers).toEqual(await alone(asTheyWent(scripts, answers), fake));
      expect(swaps).toBeGreaterThan(0);
    },
  );
});

describe("a stream of important requests", () => {
  /** Milliseconds until a request of low priority has ended, while as many important ones as fit run at all times. */
  const endOfTheOther = async (agingMs: number): Promise<number> => {
    const { scheduler, time } = fakeScheduler({ maxPages: 12 }, { agingMs, maxBatch: 3, maxBypass: 0 });
    let endedAt = Number.POSITIVE_INFINITY;
    const other = scheduler.open({ priority: -5 });
    const tokens = Array.from({ length: 60 }, (_, i) => 1 + (i % 30));
    const important = async (): Promise<void> => {
      while (time.now < 4000 && endedAt === Number.POSITIVE_INFINITY) {
        const session = scheduler.open();
        await session.ask(tokens, { maxTokens: 20, stopTokens: [], seed: time.now | 0, temperature: 1 }).result;
        await session.close();
      }
    };
    const streams = Promise.all([important(), important(), important(), important()]);
    await time.after(5);
    await other.ask(tokens, { maxTokens: 20, stopTokens: [] }).result;
    endedAt = time.now;
    await streams;
    await scheduler.close();
    return endedAt;
  };

  test("keeps one of low priority waiting no longer than its age allows", async () => {
    const [short, long] = [await endOfTheOther(50), await endOfTheOther(400)];
    expect(short).toBeLessThan(1000);
    expect(long).toBeGreaterThan(short);
    expect(long).toBeLessThan(4000);
  });
});

describe("a loop that waits", () => {
  /** A store whose copies end when the test says so. */
  class HeldStore extends DeviceOnlyStore {
    release: (() => void) | undefined;

    override resume(sequence: Sequence): Resumption {
      const held = new Promise<void>((resolve) => {
        this.release = resolve;
      });
      return { ...super.resume(sequence), ready: held.then(() => ({ tokens: sequence.length, bytes: 0 })) };
    }
  }

  test("sleeps until something happens", async () => {
    const engine = new FakeEngine(new FakeTime(), { maxPages: 40 });
    const store = new HeldStore(engine.cache);
    let looks = 0;
    const clock = (): number => ++looks;
    const scheduler = new Scheduler({ engine, store, clock } as unknown as Model);
    const session = scheduler.open();
    await session.prefill([1, 2, 3]);
    const answer = session.ask([4], { maxTokens: 2, stopTokens: [] });
    const turns = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i++) await new Promise(setImmediate);
    };
    await turns(20);
    const before = looks;
    await turns(200);
    expect(looks).toBe(before);
    store.release?.();
    expect((await answer.result).tokens.length).toBe(2);
    await scheduler.close();
  });
});
