/** The decode step as one launch: it asks nothing of the host, and is the same step whether recorded, enqueued op by op, read or not. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type DecodeOptions, loadModel, type Model, type Sequence } from "../../lib/index.js";
import { eachBackend } from "../device.js";
import { expectError } from "../expect_error.js";
import { golden, modelFolder } from "./golden.js";

eachBackend((device) => {
  /** Long enough that a step takes the device many times what it takes JavaScript. */
  const context = device.backend === "cuda" ? 16384 : 1024;
  const rows = 8;
  let model: Model;
  let ids: number[];
  beforeAll(async () => {
    model = await loadModel(device, modelFolder, { cacheTokens: rows * (context + 64) });
    ids = [...(await golden("ids_1024")).ints];
  });
  afterAll(() => model.dispose());

  const created = (count: number, length: number): Sequence[] =>
    Array.from({ length: count }, () => {
      const sequence = model.createSequence();
      sequence.reserve(length);
      sequence.commit(length);
      return sequence;
    });

  describe("a decode step", () => {
    test("does not wait: 50 are enqueued in a small part of the time that they take", async () => {
      model.store.pages(0).fill(0);
      const sequences = created(rows, context);
      using batch = model.decode(sequences);
      batch.startFrom(ids.slice(0, rows));
      await batch.step();
      const { stream } = model;
      stream.stamp(0);
      const begin = performance.now();
      for (let i = 0; i < 50; i++) batch.enqueueStep();
      const enqueueUs = (performance.now() - begin) * 1e3;
      stream.stamp(1);
      await stream.finished();
      expect(enqueueUs).toBeLessThan(stream.elapsedMicroseconds(0, 1) / 2);
      expect(sequences.map(({ length }) => length)).toEqual(new Array(rows).fill(context + 51));
      for (const sequence of sequences) sequence.dispose();
    });

    /** Tokens and logits after 70 steps of two sequences, read every `every` steps. */
    const decoded = async (every: number, options?: DecodeOptions): Promise<{ tokens: number[]; logits: Float32Array }> => {
      const sequences = [model.createSequence(), model.createSequence()];
      using first = await model.prefill([
        { sequence: sequences[0] as Sequence, tokens: ids.slice(0, 100) },
        { sequence: sequences[1] as Sequence, tokens: ids.slice(100, 103) },
      ]);
      using batch = model.decode(sequences, undefined, options);
      await batch.start(first);
      let tokens: number[] = [];
      for (let i = 1; i <= 70; i++) {
        if (i % every === 0) tokens = [...(await batch.step())];
        else batch.enqueueStep();
      }
      const logits = await batch.logits.readFloats();
      for (const sequence of sequences) sequence.dispose();
      return { tokens, logits };
    };

    test("is the same whether its tokens are read or not", async () => {
      expect(await decoded(70)).toEqual(await decoded(1));
    });

    test("is the same recorded and enqueued op by op", async () => {
      expect(await decoded(7, { recorded: false })).toEqual(await decoded(7));
      model.cache.checkIntegrity();
    });

    test("goes on with the same draws in another batch that is told their number", async () => {
      const sampling = [{ temperature: 1, seed: 11 }];
      using sequence = model.createSequence();
      using first = await model.prefill([{ sequence, tokens: ids.slice(0, 40) }]);
      using batch = model.decode([sequence], sampling);
      const made = [(await batch.start(first))[0] as number];
      while (made.length < 12) made.push((await batch.step())[0] as number);
      const resumed = async (draws?: number[]): Promise<number[]> => {
        sequence.truncate(40 + 5);
        using other = model.decode([sequence], sampling);
        other.startFrom([made[5] as number], draws);
        const tokens: number[] = [];
        while (tokens.length < 6) tokens.push((await other.step())[0] as number);
        return tokens;
      };
      expect(await resumed([5])).toEqual(made.slice(6));
      expect(await resumed()).not.toEqual(made.slice(6));
    });

    test("refuses options that it does not know", () => {
      using sequence = model.createSequence();
      expectError("ERR_KVASIR_UNKNOWN_OPTION", [/record; did you mean recorded\?/], () =>
        model.decode([sequence], undefined, { record: false } as DecodeOptions),
      );
    });
  });
});
