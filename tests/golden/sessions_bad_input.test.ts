/** What sessions refuse: a coded sentence at the call, and the session as it was before. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Model, Scheduler } from "../../lib/index.js";
import { eachBackend } from "../device.js";
import { expectError, expectRejection } from "../expect_error.js";
import { golden } from "./golden.js";
import { exactModel, pageSize, withScheduler } from "./session_runs.js";

eachBackend((device) => {
  let large: Model;
  let ids: number[];
  beforeAll(async () => {
    large = await exactModel(device, 400);
    ids = [...(await golden("ids_1024")).ints];
  });
  afterAll(() => large.dispose());

  describe("sessions refuse", () => {
    test("what can never fit, naming need and pool", async () => {
      await withScheduler(large, {}, async (scheduler) => {
        const session = scheduler.open();
        expectError("ERR_KVASIR_OUT_OF_PAGES", [/Need 501 pages for 8009 tokens but the device holds 400/], () =>
          session.ask(ids.slice(0, 10), { maxTokens: 8000 }),
        );
        expect(session.length).toBe(0);
        await session.prefill(ids.slice(0, 5));
      });
    });

    test("what finds no room beside the cache's other sequences", async () => {
      using other = large.createSequence();
      other.reserve(398 * pageSize);
      const scheduler = new Scheduler(large);
      const session = scheduler.open();
      await expectRejection(
        "ERR_KVASIR_OUT_OF_PAGES",
        [/Need 7 pages but only 2 of 400 can be freed/],
        session.ask(ids.slice(0, 100), { maxTokens: 3 }).result,
      );
      other.truncate(0);
      expect((await session.ask(ids.slice(0, 100), { maxTokens: 3, stopTokens: [] }).result).tokens.length).toBe(3);
      await scheduler.close();
    });

    test("two requests of a session at a time, and forks meanwhile", async () => {
      await withScheduler(large, {}, async (scheduler) => {
        const session = scheduler.open();
        const reading = session.prefill(ids.slice(0, 20));
        expectError("ERR_KVASIR_INVALID_ARGUMENT", [/ask while the session's last request is unfinished/], () =>
          session.ask([1]),
        );
        expectError("ERR_KVASIR_INVALID_ARGUMENT", [/fork while/], () => session.fork());
        await reading;
        session.fork();
      });
    });

    test.each([
      [{ maxToken: 1 }, "ERR_KVASIR_UNKNOWN_OPTION", /maxToken; did you mean maxTokens\?/],
      [{ maxTokens: 0 }, "ERR_KVASIR_INVALID_ARGUMENT", /maxTokens is 0/],
      [{ temperature: -1 }, "ERR_KVASIR_INVALID_ARGUMENT", /temperature is -1/],
      [{ priority: 0.5 }, "ERR_KVASIR_INVALID_ARGUMENT", /priority is 0.5/],
    ] as const)("ask with %j", async (options, code, message) => {
      await withScheduler(large, {}, async (scheduler) => {
        const session = scheduler.open();
        expectError(code, [message], () => session.ask([1, 2], options as object));
        expect(session.isBusy).toBe(false);
      });
    });

    test("tokens outside the vocabulary, and none", async () => {
      await withScheduler(large, {}, async (scheduler) => {
        const session = scheduler.open();
        expectError("ERR_KVASIR_INVALID_ARGUMENT", [/tokens\[1\] is 4096/], () => session.ask([1, 4096]));
        expectError("ERR_KVASIR_INVALID_ARGUMENT", [/tokens is empty/], () => session.ask([]));
        await expectRejection("ERR_KVASIR_INVALID_ARGUMENT", [/tokens is empty/], session.prefill([]));
      });
    });

    test.each([
      [{ batch: 1 }, "ERR_KVASIR_UNKNOWN_OPTION", /Scheduler has no option batch/],
      [{ maxBatch: 0 }, "ERR_KVASIR_INVALID_ARGUMENT", /maxBatch is 0/],
      [{ watermark: 1 }, "ERR_KVASIR_INVALID_ARGUMENT", /watermark is 1/],
      [{ rates: { prefillTokens: 0 } }, "ERR_KVASIR_INVALID_ARGUMENT", /rates.prefillTokens is 0/],
    ] as const)("a scheduler with %j", (options, code, message) => {
      expectError(code, [message], () => new Scheduler(large, options as object));
    });

    test("sessions of a closed scheduler", async () => {
      const scheduler = new Scheduler(large);
      await scheduler.close();
      expectError("ERR_KVASIR_DISPOSED", [/Scheduler was closed/], () => scheduler.open());
    });
  });
});
