/** Sessions on the bundled model, more of them than its cache holds: everyone gets the tokens of an uncontended run, and nothing is left over. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Model, randomModel, type Session } from "../../lib/index.js";
import { eachBackend } from "../device.js";
import { expectError, expectRejection } from "../expect_error.js";
import { randomFrom } from "../property/session_script.js";
import { golden } from "./golden.js";
import { conversedAlone, converse, exactModel, pageSize, type Plan, plans, withScheduler } from "./session_runs.js";

eachBackend((device) => {
  let large: Model;
  let ids: number[];
  beforeAll(async () => {
    large = await exactModel(device, 400);
    ids = [...(await golden("ids_1024")).ints];
  });
  afterAll(() => large.dispose());

  const alone = (of: readonly Plan[]): Promise<number[][][]> => conversedAlone(large, of);

  describe("sessions of a model", () => {
    test("say what `generate` says", async () => {
      const [question, text] = [ids.slice(100, 120), ids.slice(0, 100)];
      const expected: number[] = [];
      const options = { maxTokens: 30, temperature: 1, seed: 5, stopTokens: [] };
      using sequence = large.createSequence();
      (await large.prefill([{ sequence, tokens: text }])).dispose();
      for await (const { token } of large.generate(question, { ...options, sequence })) expected.push(token);
      sequence.dispose();
      const tokens = await withScheduler(large, {}, async (scheduler) => {
        const session = scheduler.open();
        await session.prefill(text);
        return (await session.ask(question, options).result).tokens;
      });
      expect(tokens).toEqual(expected);
    });

    test("get the tokens of an uncontended run where pages run out again and again", async () => {
      const of = plans(ids, 6, 40).map((plan) => ({ ...plan, text: plan.text.slice(0, 40) }));
      // Each starts with 4 or 5 pages and ends with about 9; the cache's other sequence leaves 14.
      using small = await exactModel(device, 33);
      using other = small.createSequence();
      other.reserve(19 * pageSize);
      const { answers, stats } = await withScheduler(
        small,
        { growthPages: 0, watermark: 0, prefillTokens: 64 },
        async (scheduler) => {
          const answers = await Promise.all(of.map((plan, i) => converse(scheduler.open(), plan, i)));
          other.dispose();
          return { answers, stats: scheduler.stats() };
        },
      );
      expect(answers).toEqual(await alone(of));
      expect(stats.recomputePreemptions).toBeGreaterThan(0);
      expect(stats.mostPreemptions).toBeLessThanOrEqual(4);
    });

    test("get the tokens of an uncontended run in batches whose members and kinds change", async () => {
      const of = plans(ids, 8, 24);
      const { answers, stats } = await withScheduler(large, { prefillTokens: 48 }, async (scheduler) => {
        const answers = await Promise.all(of.map((plan, i) => converse(scheduler.open(), plan, 7 * (i % 5))));
        return { answers, stats: scheduler.stats() };
      });
      expect(answers).toEqual(await alone(of));
      expect(stats.recomputedTokens).toBe(0);
      // They did run together.
      expect(stats.steps).toBeLessThan(stats.madeTokens / 2);
    });

    test("stream text that joins to the decoding of their tokens", async () => {
      await withScheduler(large, {}, async (scheduler) => {
        const answer = scheduler.open().ask("It was a dark night", { maxTokens: 40, temperature: 1.5, seed: 3, stopTokens: [] });
        let text = "";
        for await (const part of answer) text += part.text;
        const result = await answer.result;
        expect(result).toMatchObject({ text, finish: "length", preemptions: 0 });
        expect(text).toBe(large.tokenizer.decode(result.tokens));
      });
    });

    test("end before a stop token, and go on as if it had not been chosen", async () => {
      await withScheduler(large, {}, async (scheduler) => {
        const whole = (await scheduler.open().ask(ids.slice(0, 130), { maxTokens: 12, stopTokens: [] }).result).tokens;
        const stop = whole.find((token, i) => i >= 4 && whole.indexOf(token) === i) as number;
        const kept = whole.slice(0, whole.indexOf(stop));
        const session = scheduler.open();
        const result = await session.ask(ids.slice(0, 130), { maxTokens: 12, stopTokens: [stop] }).result;
        expect(result).toMatchObject({ tokens: kept, finish: "stop" });
        expect([...session.tokens()]).toEqual([...ids.slice(0, 130), ...kept]);
        const next = await session.ask(ids.slice(130, 140), { maxTokens: 5, stopTokens: [] }).result;
        const told = [...ids.slice(0, 130), ...kept, ...ids.slice(130, 140)];
        expect((await scheduler.open().ask(told, { maxTokens: 5, stopTokens: [] }).result).tokens).toEqual(next.tokens);
      });
    });

    test("fork: both go their own ways on shared pages, as each alone", async () => {
      await withScheduler(large, {}, async (scheduler) => {
        const session = scheduler.open();
        await session.prefill(ids.slice(0, 200));
        const used = large.cache.stats().usedBytes;
        const forks = [1, 2, 3].map(() => session.fork());
        expect(large.cache.stats().usedBytes).toBe(used);
        const questions = [0, 1, 2].map((i) => ids.slice(300 + 20 * i, 310 + 20 * i));
        const ask = async (of: Session, i: number): Promise<number[]> =>
          (await of.ask(questions[i] as number[], { maxTokens: 12, stopTokens: [] }).result).tokens;
        const together = await Promise.all(forks.map(ask));
        const each: number[][] = [];
        for (let i = 0; i < 3; i++) {
          const other = scheduler.open();
          await other.prefill(ids.slice(0, 200));
          each.push(await ask(other, i));
        }
        expect(together).toEqual(each);
      });
    });
  });

  describe("a request that is broken off", () => {
    test("at any moment leaves its session as it was, and no page behind", async () => {
      const of = plans(ids, 6, 30);
      const random = randomFrom(7);
      using small = await exactModel(device, 40);
      await withScheduler(small, { growthPages: 0, watermark: 0 }, async (scheduler) => {
        let aborted = 0;
        const bother = async (plan: Plan): Promise<void> => {
          const session = scheduler.open();
          await session.prefill(plan.text);
          for (let i = 0; i < 6; i++) {
            const before = session.tokens();
            const abort = new AbortController();
            setTimeout(() => abort.abort(new Error("enough")), 120 * random());
            const { tokens, ...options } = plan.questions[i % 2] as Plan["questions"][number];
            const answer = session.ask(tokens, { ...options, signal: abort.signal, stopTokens: [] });
            await answer.result.catch((error: Error) => {
              expect(error.message).toBe("enough");
              aborted++;
              expect(session.tokens()).toEqual(before);
            });
          }
        };
        await Promise.all(of.map(bother));
        expect(aborted).toBeGreaterThan(0);
      });
    });

    test("by leaving its loop keeps what was yielded, and the rest goes on from there", async () => {
      await withScheduler(large, {}, async (scheduler) => {
        const session = scheduler.open();
        const answer = session.ask(ids.slice(0, 50), { maxTokens: 200, stopTokens: [] });
        const made: number[] = [];
        for await (const { token } of answer) if (made.push(token) === 5) break;
        expect(await answer.result).toMatchObject({ tokens: made, finish: "left" });
        expect([...session.tokens()]).toEqual([...ids.slice(0, 50), ...made]);
        expect((await session.ask(ids.slice(60, 70), { maxTokens: 3, stopTokens: [] }).result).tokens.length).toBe(3);
      });
    });

    test("by closing its session rejects with the reason", async () => {
      await withScheduler(large, {}, async (scheduler) => {
        const session = scheduler.open();
        const answer = session.ask(ids.slice(0, 50), { maxTokens: 200, stopTokens: [] });
        await answer.next();
        await session.close();
        await session.close();
        await expectRejection("ERR_KVASIR_DISPOSED", [/Session was closed before its answer ended/], answer.result);
        expectError("ERR_KVASIR_DISPOSED", [/Session was closed/], () => session.ask([1]));
      });
    });
  });

  describe("the example of forty sessions", () => {
    test("in small gives everyone the answers of a run alone, and says what it took", () => {
      const script = fileURLToPath(new URL("../../examples/forty_sessions.mjs", import.meta.url));
      const size = ["--sessions", "6", "--tokens", "320", "--held", "2", "--questions", "1", "--think", "100", "--page", "16"];
      const run = spawnSync(process.execPath, [script, ...size, "--device", device.backend, "--json"], { encoding: "utf8" });
      expect(run.stderr).toBe("");
      const result = JSON.parse(run.stdout) as Record<string, number> & { hitRates: Record<string, number> };
      expect(result).toMatchObject({ sessions: 6, questions: 12, same: 12, right: result.rightAlone });
      expect(result.right).toBeGreaterThanOrEqual(10);
      expect(result.mostPreemptions).toBeLessThanOrEqual(4);
      expect(Object.values(result.hitRates).reduce((sum, rate) => sum + rate, 0)).toBeCloseTo(1, 9);
    });
  });

  describe("small sessions at 2 to 10 times the pages that there are", () => {
    const config = {
      architectures: ["LlamaForCausalLM"],
      hidden_size: 64,
      intermediate_size: 96,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      vocab_size: 200,
    };
    test.each(Array.from({ length: 24 }, (_, i) => i))("all end (seed %i)", async (seed) => {
      const random = randomFrom(seed);
      const upTo = (n: number): number => 1 + Math.floor(random() * n);
      // 40 pages hold 640 tokens; the sessions want up to 10 times as many.
      using model = await randomModel(device, config, { cacheTokens: 8 * pageSize, pageSize, seed });
      await withScheduler(model, {}, async (scheduler) => {
        const sessions = Array.from({ length: 8 + 2 * (seed % 9) }, () => scheduler.open({ priority: upTo(3) }));
        const results = await Promise.all(
          sessions.map((session) => {
            const tokens = Array.from({ length: upTo(300) }, () => upTo(199));
            return session.ask(tokens, { maxTokens: upTo(60), stopTokens: [], temperature: 1, seed }).result;
          }),
        );
        expect(results.every(({ finish }) => finish === "length")).toBe(true);
        expect(Math.max(...results.map(({ preemptions }) => preemptions))).toBeLessThanOrEqual(4);
      });
    });
  });
});
