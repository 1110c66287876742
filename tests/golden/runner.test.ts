/** What the runner promises whatever the model computes: the way that tokens are cut, batched, recorded, forked or undone changes nothing. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadModel, type Model, type Sequence } from "../../lib/index.js";
import { eachBackend } from "../device.js";
import { expectError, expectRejection } from "../expect_error.js";
import { golden, greedy, lastLogits, maxDifference, modelFolder } from "./golden.js";

eachBackend((device) => {
  let model: Model;
  let ids: number[];
  /** Differences of rounding only: logits reach about 20. */
  let tolerance: number;
  beforeAll(async () => {
    model = await loadModel(device, modelFolder, { chunkTokens: 512, cacheTokens: 8192 });
    ids = [...(await golden("ids_1024")).ints];
    tolerance = model.dtype === "f32" ? 5e-4 : 0.35;
  });
  afterAll(() => model.dispose());

  const logitsOf = async (read: (sequence: Sequence) => Promise<Float32Array>, which: Model = model): Promise<Float32Array> => {
    using sequence = which.createSequence();
    return await read(sequence);
  };
  const prefilled = async (sequence: Sequence, tokens: readonly number[], which: Model = model): Promise<Float32Array> => {
    using logits = await which.prefill([{ sequence, tokens }]);
    return logits.readFloats();
  };

  describe("prefill", () => {
    test("in odd chunks equals one pass", async () => {
      const whole = await logitsOf((sequence) => prefilled(sequence, ids.slice(0, 500)));
      const chunked = await logitsOf(async (sequence) => {
        await prefilled(sequence, ids.slice(0, 1));
        await prefilled(sequence, ids.slice(1, 64));
        await prefilled(sequence, ids.slice(64, 301));
        return prefilled(sequence, ids.slice(301, 500));
      });
      expect(maxDifference(whole, chunked)).toBeLessThanOrEqual(tolerance);
    });

    test("of several sequences in one ragged pass equals each alone", async () => {
      const spans: [number, number][] = [
        [0, 3],
        [10, 700],
        [5, 70],
        [700, 701],
      ];
      const alone = [];
      for (const [from, to] of spans) alone.push(...(await logitsOf((sequence) => prefilled(sequence, ids.slice(from, to)))));
      const sequences = spans.map(() => model.createSequence());
      using logits = await model.prefill(
        spans.map(([from, to], i) => ({ sequence: sequences[i] as Sequence, tokens: ids.slice(from, to) })),
      );
      expect(maxDifference(await logits.readFloats(), alone)).toBeLessThanOrEqual(tolerance);
      for (const sequence of sequences) sequence.dispose();
      model.cache.checkIntegrity();
    });

    test("counts progress to the last token", async () => {
      using sequence = model.createSequence();
      const seen: number[] = [];
      (await model.prefill([{ sequence, tokens: ids }], { onProgress: (done) => seen.push(done) })).dispose();
      expect(seen).toEqual([0, 512, 1024]);
    });

    test("stops between passes when aborted, with a first part read", async () => {
      using sequence = model.createSequence();
      const abort = new AbortController();
      const onProgress = (done: number): void => {
        if (done >= 512) abort.abort(new Error("enough"));
      };
      const long = [...ids, ...ids, ...ids];
      await expect(model.prefill([{ sequence, tokens: long }], { signal: abort.signal, onProgress })).rejects.toThrow("enough");
      expect(sequence.length).toBeGreaterThan(0);
      expect(sequence.length).toBeLessThan(long.length);
      const read = sequence.length;
      const rest = await prefilled(sequence, long.slice(read, read + 10));
      const whole = await logitsOf((fresh) => prefilled(fresh, long.slice(0, read + 10)));
      expect(maxDifference(rest, whole)).toBeLessThanOrEqual(tolerance);
    });

    test("refuses tokens outside the vocabulary, and none at all", async () => {
      using sequence = model.createSequence();
      await expectRejection(
        "ERR_KVASIR_INVALID_ARGUMENT",
        [/tokens\[1\] is 4096, expected an integer from 0 to 4095/],
        model.prefill([{ sequence, tokens: [1, 4096] }]),
      );
      await expectRejection("ERR_KVASIR_INVALID_ARGUMENT", [/tokens is empty/], model.prefill([{ sequence, tokens: [] }]));
    });

    test("refuses a sequence that appears twice, or is of another cache", async () => {
      using sequence = model.createSequence();
      const item = { sequence, tokens: [1, 2] };
      await expectRejection("ERR_KVASIR_INVALID_ARGUMENT", [/a sequence appears twice/], model.prefill([item, item]));
      using other = await loadModel(device, modelFolder, { cacheTokens: 64 });
      await expectRejection("ERR_KVASIR_INVALID_ARGUMENT", [/sequence belongs to another cache/], other.prefill([item]));
    });

    test("that does not fit leaves every sequence as it was", async () => {
      using one = model.createSequence();
      using two = model.createSequence();
      const tokens = new Array(6000).fill(5);
      await expectRejection(
        "ERR_KVASIR_OUT_OF_PAGES",
        [/Need \d+ pages but only \d+ of \d+ are free/],
        model.prefill([
          { sequence: one, tokens },
          { sequence: two, tokens },
        ]),
      );
      expect([one.length, two.length]).toEqual([0, 0]);
      model.cache.checkIntegrity();
    });
  });

  describe("a recorded decode step", () => {
    test("equals the same token read eagerly, across page borders", async () => {
      using stepped = model.createSequence();
      using first = await model.prefill([{ sequence: stepped, tokens: ids.slice(0, 60) }]);
      using batch = model.decode([stepped]);
      let token = (await batch.start(first))[0] as number;
      const tokens = ids.slice(0, 60);
      for (let i = 0; i < 10; i++) {
        tokens.push(token);
        token = (await batch.step())[0] as number;
      }
      const recorded = (await batch.logits.readFloats()).slice(0, model.config.vocabSize);
      const eager = await logitsOf((sequence) => prefilled(sequence, tokens));
      expect(maxDifference(recorded, eager)).toBeLessThanOrEqual(tolerance);
    });

    test("of sequences of different lengths equals each alone", async () => {
      const lengths = [1, 63, 64, 65, 200];
      const alone: number[][] = [];
      for (const length of lengths) alone.push(await greedy(model, ids.slice(0, length), 8));
      const sequences = lengths.map(() => model.createSequence());
      using first = await model.prefill(
        lengths.map((length, i) => ({ sequence: sequences[i] as Sequence, tokens: ids.slice(0, length) })),
      );
      using batch = model.decode(sequences);
      const made = [[...(await batch.start(first))]];
      for (let i = 0; i < 7; i++) made.push([...(await batch.step())]);
      // In low precision two near-equal logits may swap; the first tokens are far enough apart.
      const compared = model.dtype === "f32" ? 8 : 1;
      lengths.forEach((_, row) => {
        expect(made.slice(0, compared).map((step) => step[row])).toEqual(alone[row]?.slice(0, compared));
      });
      for (const sequence of sequences) sequence.dispose();
      model.cache.checkIntegrity();
    });

    test("goes on when the page table grows and rows move", async () => {
      const prompt = ids.slice(0, 1000);
      const alone = await greedy(model, prompt, 30);
      using sequence = model.createSequence();
      using first = await model.prefill([{ sequence, tokens: prompt }]);
      using batch = model.decode([sequence]);
      const made = [...(await batch.start(first))];
      const table = model.cache.groups[0]?.table;
      const [generation, start] = [table?.generation, table?.rowStart(sequence.row)];
      const forks: Sequence[] = [];
      while (made.length < 30) {
        for (let i = 0; i < 5; i++) forks.push(sequence.fork());
        made.push(...(await batch.step()));
      }
      expect(table?.generation).not.toBe(generation);
      expect(table?.rowStart(sequence.row)).not.toBe(start);
      const compared = model.dtype === "f32" ? 30 : 1;
      expect(made.slice(0, compared)).toEqual(alone.slice(0, compared));
      for (const fork of forks) fork.dispose();
      model.cache.checkIntegrity();
    });

    test("that finds no page changes nothing, and works once there is one", async () => {
      using small = await loadModel(device, modelFolder, { cacheTokens: 64 });
      const pages = small.cache.groups[0]?.pool.numPages as number;
      using other = small.createSequence();
      other.reserve(64 * (pages - 1));
      using sequence = small.createSequence();
      using first = await small.prefill([{ sequence, tokens: ids.slice(0, 64) }]);
      using batch = small.decode([sequence]);
      const [token] = await batch.start(first);
      expectError("ERR_KVASIR_OUT_OF_PAGES", [/Need 1 page but only 0 of \d+ are free/], () => batch.step());
      expect(sequence.length).toBe(64);
      other.dispose();
      const [next] = await batch.step();
      expect([token, next]).toEqual(await greedy(small, ids.slice(0, 64), 2));
      small.cache.checkIntegrity();
    });

    test("leaves out sequences that are finished", async () => {
      using one = model.createSequence();
      using two = model.createSequence();
      using first = await model.prefill([
        { sequence: one, tokens: ids.slice(0, 20) },
        { sequence: two, tokens: ids.slice(0, 30) },
      ]);
      using batch = model.decode([one, two]);
      await batch.start(first);
      await batch.step();
      batch.finish(0);
      await batch.step();
      expect([one.length, two.length]).toEqual([21, 32]);
    });
  });

  describe("sequences", () => {
    test("fork: parent and child go their own ways on shared pages", async () => {
      using parent = model.createSequence();
      await prefilled(parent, ids.slice(0, 100));
      const before = model.cache.stats().usedBytes;
      using child = parent.fork();
      expect(model.cache.stats().usedBytes).toBe(before);
      const [other, same] = [ids.slice(300, 340), ids.slice(100, 140)];
      const forked = await prefilled(child, other);
      const parents = await prefilled(parent, same);
      expect(maxDifference(forked, await logitsOf((s) => prefilled(s, [...ids.slice(0, 100), ...other])))).toBeLessThanOrEqual(
        tolerance,
      );
      expect(maxDifference(parents, await logitsOf((s) => prefilled(s, ids.slice(0, 140))))).toBeLessThanOrEqual(tolerance);
      model.cache.checkIntegrity();
    });

    test("truncate: what comes after is as if the rest had never been", async () => {
      using sequence = model.createSequence();
      await prefilled(sequence, ids.slice(0, 150));
      sequence.truncate(70);
      const resumed = await prefilled(sequence, ids.slice(70, 90));
      expect(maxDifference(resumed, await logitsOf((s) => prefilled(s, ids.slice(0, 90))))).toBeLessThanOrEqual(tolerance);
    });

    test("keys stored before RoPE give the same logits", async () => {
      using other = await loadModel(device, modelFolder, { storeRotated: false, cacheTokens: 2048 });
      const [before, after] = [
        await logitsOf((s) => prefilled(s, ids.slice(0, 300), other), other),
        await logitsOf((s) => prefilled(s, ids.slice(0, 300))),
      ];
      expect(maxDifference(before, after)).toBeLessThanOrEqual(tolerance);
    });

    test("a disposed one says so", async () => {
      const sequence = model.createSequence();
      sequence.dispose();
      sequence.dispose();
      expectError("ERR_KVASIR_DISPOSED", [/Sequence was disposed/], () => sequence.fork());
      await expectRejection("ERR_KVASIR_DISPOSED", [/Sequence was disposed/], model.prefill([{ sequence, tokens: [1] }]));
    });
  });

  describe("with batchInvariant", () => {
    test("bits do not depend on chunking, batching or recording", async () => {
      using exact = await loadModel(device, modelFolder, { batchInvariant: true, chunkTokens: 256, cacheTokens: 4096 });
      const whole = await logitsOf((s) => lastLogits(exact, s, ids.slice(0, 300), 1), exact);
      const chunked = await logitsOf(async (s) => {
        await prefilled(s, ids.slice(0, 77), exact);
        return prefilled(s, ids.slice(77, 300), exact);
      }, exact);
      expect(maxDifference(whole, chunked)).toBe(0);
      const sequences = [1, 2, 3].map(() => exact.createSequence());
      const items = sequences.map((sequence, i) => ({ sequence, tokens: i === 1 ? ids.slice(0, 299) : ids.slice(10 * i, 100) }));
      using first = await exact.prefill(items);
      using batch = exact.decode(sequences);
      await batch.start(first);
      batch.startFrom([1, ids[299] as number, 2]);
      await batch.step();
      const vocab = exact.config.vocabSize;
      const batched = (await batch.logits.readFloats()).slice(vocab, 2 * vocab);
      expect(maxDifference(whole, batched)).toBe(0);
      for (const sequence of sequences) sequence.dispose();
    });
  });
});
