/** Generation as an iterator: seeds, stops, aborts, text. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadModel, type Model } from "../../lib/index.js";
import { eachBackend } from "../device.js";
import { expectRejection } from "../expect_error.js";
import { golden, greedy, modelFolder } from "./golden.js";

eachBackend((device) => {
  let model: Model;
  let ids: number[];
  beforeAll(async () => {
    model = await loadModel(device, modelFolder, { cacheTokens: 4096 });
    ids = [...(await golden("ids_1024")).ints];
  });
  afterAll(() => model.dispose());

  describe("generate", () => {
    const prompt = "Call me";

    test("gives the same tokens for the same seed, and others for another", async () => {
      const run = async (seed: number): Promise<number[]> => {
        const tokens: number[] = [];
        for await (const { token } of model.generate(prompt, { maxTokens: 24, temperature: 1, topK: 200, topP: 0.95, seed }))
          tokens.push(token);
        return tokens;
      };
      const first = await run(7);
      expect(await run(7)).toEqual(first);
      expect(await run(8)).not.toEqual(first);
    });

    test("yields text that joins to the decoding of its tokens", async () => {
      const tokens: number[] = [];
      let text = "";
      for await (const part of model.generate(prompt, { maxTokens: 40, temperature: 1.5, seed: 3, stopTokens: [] })) {
        tokens.push(part.token);
        text += part.text;
      }
      expect(tokens.length).toBe(40);
      expect(text).toBe(model.tokenizer.decode(tokens));
    });

    test("ends before a stop token, and leaves a continued sequence at the yielded text", async () => {
      const all = await greedy(model, ids.slice(0, 130), 12);
      const stop = all.find((token, i) => i >= 4 && all.indexOf(token) === i) as number;
      using sequence = model.createSequence();
      const made: number[] = [];
      for await (const { token } of model.generate(ids.slice(0, 130), { sequence, maxTokens: 12, stopTokens: [stop] }))
        made.push(token);
      expect(made).toEqual(all.slice(0, all.indexOf(stop)));
      expect(sequence.length).toBe(130 + made.length);
    });

    test("stops when aborted and when the loop is left, and frees its pages", async () => {
      const used = model.cache.stats().usedBytes;
      const abort = new AbortController();
      let made = 0;
      const run = async (): Promise<void> => {
        for await (const _ of model.generate(prompt, { maxTokens: 500, signal: abort.signal, stopTokens: [] }))
          if (++made === 3) abort.abort(new Error("enough"));
      };
      await expect(run()).rejects.toThrow("enough");
      for await (const _ of model.generate(prompt, { maxTokens: 500, stopTokens: [] })) break;
      expect(made).toBeLessThan(10);
      expect(model.cache.stats().usedBytes).toBe(used);
      model.cache.checkIntegrity();
    });

    test.each([
      [{ temprature: 1 }, "ERR_KVASIR_UNKNOWN_OPTION", /temprature; did you mean temperature\?/],
      [{ temperature: -1 }, "ERR_KVASIR_INVALID_ARGUMENT", /temperature is -1, expected a finite number of at least 0/],
      [{ topP: 0 }, "ERR_KVASIR_INVALID_ARGUMENT", /topP is 0, expected a number above 0/],
      [{ maxTokens: 0 }, "ERR_KVASIR_INVALID_ARGUMENT", /maxTokens is 0/],
    ] as const)("refuses %j", async (options, code, message) => {
      await expectRejection(code, [message], model.generate(prompt, options as object).next());
    });
  });
});
