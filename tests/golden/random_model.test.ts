/** A model from a config alone. */
import { describe, expect, test } from "vitest";
import { type Model, randomModel, type RandomModelOptions } from "../../lib/index.js";
import { eachBackend } from "../device.js";
import { expectError, expectRejection } from "../expect_error.js";
import { maxAbs } from "./golden.js";

const config = {
  architectures: ["LlamaForCausalLM"],
  hidden_size: 192,
  intermediate_size: 320,
  num_hidden_layers: 3,
  num_attention_heads: 6,
  num_key_value_heads: 2,
  head_dim: 64,
  vocab_size: 5000,
};

eachBackend((device) => {
  const make = (options: RandomModelOptions = {}, changed: object = {}): Promise<Model> =>
    randomModel(device, { ...config, ...changed }, { cacheTokens: 256, ...options });
  const logits = async (options?: RandomModelOptions, changed?: object): Promise<Float32Array> => {
    using model = await make(options, changed);
    using sequence = model.createSequence();
    using last = await model.prefill([{ sequence, tokens: [1, 2, 3, 4999] }]);
    return last.readFloats();
  };

  describe("a random model", () => {
    test("computes numbers of the size that its weights let expect", async () => {
      // A normed row of 192 values against weights of deviation 0.02: 0.02 * sqrt(192), and some 4 sigma over the vocabulary.
      const values = await logits();
      expect(values.length).toBe(5000);
      const deviation = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
      expect(deviation).toBeGreaterThan(0.2);
      expect(deviation).toBeLessThan(0.35);
      expect(maxAbs(values)).toBeLessThan(2);
    });

    test("is fixed by its seed", async () => {
      expect(await logits({ seed: 3 })).toEqual(await logits({ seed: 3 }));
      expect(await logits({ seed: 3 })).not.toEqual(await logits({ seed: 4 }));
    });

    test("has the biases and the tied head that its config asks for", async () => {
      const plain = await logits();
      for (const changed of [{ attention_bias: true }, { mlp_bias: true }, { tie_word_embeddings: true }])
        expect(await logits({}, changed)).not.toEqual(plain);
    });

    test("decodes, and gives its memory back", async () => {
      await logits();
      const before = device.memory().allocatedBytes;
      {
        using model = await make();
        using sequence = model.createSequence();
        using first = await model.prefill([{ sequence, tokens: [7] }]);
        using batch = model.decode([sequence]);
        await batch.start(first);
        for (let i = 0; i < 70; i++) batch.enqueueStep();
        expect((await batch.step())[0]).toBeLessThan(5000);
        expect(sequence.length).toBe(72);
      }
      await device.stream.finished();
      expect(device.memory().allocatedBytes).toBe(before);
    });

    test("says what it lacks and what it cannot be", async () => {
      using model = await make();
      expectError(
        "ERR_KVASIR_INVALID_ARGUMENT",
        [/model has no tokenizer; give tokens to prefill and decode/],
        () => model.tokenizer,
      );
      await expectRejection("ERR_KVASIR_UNSUPPORTED_MODEL", [/config: hidden_size is -1/], make({}, { hidden_size: -1 }));
      await expectRejection("ERR_KVASIR_INVALID_ARGUMENT", [/seed is 0.5/], make({ seed: 0.5 }));
      await expectRejection("ERR_KVASIR_UNKNOWN_OPTION", [/onProgress/], make({ onProgress: () => 0 } as RandomModelOptions));
    });
  });
});
