/** An answer as it comes: every token once, in order, whoever is faster, and one end. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Answer, type RequestCounters } from "../../lib/session/answer.js";

const counters: RequestCounters = {
  promptTokens: 1,
  contextTokens: 0,
  cachedTokens: 0,
  recomputedTokens: 0,
  preemptions: 0,
  bytesIn: 0,
  queueMs: 0,
  firstTokenMs: 0,
  totalMs: 0,
};
const ignore = (): void => undefined;

async function all(answer: Answer): Promise<number[]> {
  const tokens: number[] = [];
  for await (const { token } of answer) tokens.push(token);
  return tokens;
}

describe("an answer", () => {
  test("gives each token once, in order, whether it is read before or after it comes", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.nat(99), { maxLength: 12 }),
        fc.array(fc.boolean(), { maxLength: 12 }),
        async (tokens, reads) => {
          const answer = new Answer(undefined, ignore);
          const read: Promise<IteratorResult<{ token: number }>>[] = [];
          tokens.forEach((token, i) => {
            if (reads[i]) read.push(answer.next());
            answer.push(token);
          });
          answer.finish("length", counters);
          while (read.length < tokens.length) read.push(answer.next());
          const seen = await Promise.all(read);
          expect(seen.map(({ value }) => value.token)).toEqual(tokens);
          expect(await answer.next()).toEqual({ value: undefined, done: true });
          expect((await answer.result).tokens).toEqual(tokens);
        },
      ),
    );
  });

  test("that fails gives what came before, then the error, then nothing", async () => {
    const answer = new Answer(undefined, ignore);
    const lost = new Error("lost");
    for (const token of [1, 2, 3]) answer.push(token);
    answer.fail(lost);
    answer.finish("stop", counters);
    expect((await answer.next()).value?.token).toBe(1);
    expect((await answer.next()).value?.token).toBe(2);
    await expect(answer.next()).rejects.toBe(lost);
    expect((await answer.next()).done).toBe(true);
    await expect(answer.result).rejects.toBe(lost);
  });

  test("wakes everyone who waits when it ends", async () => {
    const [ended, failed] = [new Answer(undefined, ignore), new Answer(undefined, ignore)];
    const waiting = [ended.next(), ended.next(), failed.next()];
    waiting[2]?.catch(ignore);
    ended.push(7);
    ended.finish("stop", counters);
    failed.fail(new Error("lost"));
    expect(await waiting[0]).toMatchObject({ done: false, value: { token: 7 } });
    expect(await waiting[1]).toMatchObject({ done: true });
    await expect(waiting[2]).rejects.toThrow("lost");
  });

  test("left early says after how many tokens, and keeps those", async () => {
    const left: number[] = [];
    const answer = new Answer(undefined, (yielded) => {
      left.push(yielded);
      answer.finish("left", counters);
    });
    for (const token of [1, 2, 3, 4, 5]) answer.push(token);
    for await (const { token } of answer) if (token === 2) break;
    expect(left).toEqual([2]);
    expect(await answer.result).toMatchObject({ tokens: [1, 2], finish: "left" });
    expect(await all(answer)).toEqual([]);
  });

  test("of no token at all ends at once", async () => {
    const answer = new Answer(undefined, ignore);
    answer.finish("stop", counters);
    expect(await all(answer)).toEqual([]);
    expect(await answer.result).toMatchObject({ tokens: [], text: "", finish: "stop" });
  });
});
