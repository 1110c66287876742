/** Decoding with pages on the device, in host memory under the CPU, and streamed: the same tokens as from pages on the device alone. */
import { setImmediate } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  allocateHostTensor,
  type Device,
  type Event,
  type HybridDecode,
  type HybridOptions,
  linear,
  loadModel,
  type Model,
  openDevice,
  probeFma,
  type Sampling,
  type Sequence,
  type Tensor,
} from "../../lib/index.js";
import { runSeed } from "../attention_check.js";
import { eachBackend } from "../device.js";
import { expectRejection } from "../expect_error.js";
import { maxDifference, modelFolder } from "./golden.js";
import { decoded, HybridBed, hostSlots, pageSize } from "./hybrid_bed.js";

eachBackend((device) => {
  let bed: HybridBed;
  let host: Device;
  let model: Model;
  let hostPages: Tensor;
  let ids: number[];
  beforeAll(async () => {
    bed = await HybridBed.open(device);
    ({ host, model, hostPages, ids } = bed);
  });
  afterAll(() => bed.dispose());

  async function check(
    lengths: readonly number[],
    pages: readonly number[],
    options: Omit<HybridOptions, "hostPages">,
    sampling?: readonly Sampling[],
    steps = 20,
  ): Promise<HybridDecode["stats"]> {
    const { sequences, logits } = await bed.prefilled(lengths);
    const parts = await bed.spread(sequences, pages);
    const plain = model.decode(sequences, sampling);
    const expected = await decoded(plain, logits, steps);
    plain.dispose();
    using hybrid = await model.decodeHybrid(parts, { hostPages, sampling, ...options });
    const found = await decoded(hybrid, logits, steps);
    const what = `KVASIR_TEST_SEED=${runSeed} ${JSON.stringify([lengths, pages, options])}`;
    expect(found.tokens, what).toEqual(expected.tokens);
    // Rounding of sums in another order; logits reach about 20.
    expect(maxDifference(found.logits, expected.logits), what).toBeLessThanOrEqual(5e-4);
    expect(parts.map(({ sequence, hostSlots: slots }) => sequence.length + slots.length * pageSize)).toEqual(
      sequences.map(({ length }) => length),
    );
    for (const sequence of [...sequences, ...parts.map((part) => part.sequence)]) sequence.dispose();
    logits.dispose();
    model.cache.checkIntegrity();
    return hybrid.stats;
  }

  describe("gives the tokens of a plain decode", () => {
    test.each([
      ["all streamed", { cpuShare: 0 }],
      ["all read by the CPU", { cpuShare: 1 }],
      ["shares by rates", {}],
      ["a third read by the CPU, chunks of 3 pages, a ring of 2", { cpuShare: 1 / 3, chunkPages: 3, ringChunks: 2 }],
      ["chunks of a page, a ring of 1", { cpuShare: 0.5, chunkPages: 1, ringChunks: 1 }],
      ["a ring larger than a layer's chunks", { cpuShare: 0.5, chunkPages: 5, ringChunks: 16 }],
    ] as const)("%s", async (_, options) => {
      const stats = await check([500], [27], options);
      expect(stats.cpuPages + stats.streamedPages).toBe(27);
      expect(stats.devicePages).toBe(Math.ceil((500 + 20) / pageSize) - 27);
    });

    test("two sequences, of which one has nothing in host memory", () => check([333, 200], [17, 0], { chunkPages: 4 }));

    test("three sequences of odd lengths", async () => {
      const stats = await check([413, 97, 256], [11, 6, 15], { chunkPages: 7, ringChunks: 3 });
      expect(stats.cpuPages + stats.streamedPages).toBe(32);
    });

    test("nothing in host memory", async () => {
      const stats = await check([100], [0], {});
      expect([stats.cpuPages, stats.streamedPages, stats.bytesStreamed]).toEqual([0, 0, 0]);
    });

    test("everything but the tail in host memory, at a page's border and beside it", async () => {
      for (const length of [pageSize - 1, pageSize, pageSize + 1, 4 * pageSize])
        await check([length], [Math.floor(length / pageSize)], { cpuShare: 0.5, chunkPages: 2 });
    });

    test("random lengths, splits and shares", async () => {
      for (let i = 0; i < 6; i++) {
        const lengths = Array.from({ length: 1 + Math.floor(bed.draw() * 2) }, () => 1 + Math.floor(bed.draw() * 500));
        const pages = lengths.map((length) => Math.floor(bed.draw() * (Math.floor(length / pageSize) + 1)));
        const chunkPages = 1 + Math.floor(bed.draw() * 12);
        await check(lengths, pages, { cpuShare: bed.draw(), chunkPages, ringChunks: 1 + Math.floor(bed.draw() * 5) });
      }
    });

    test("drawn tokens", () =>
      check(
        [150, 90],
        [7, 3],
        { cpuShare: 0.4 },
        [
          { temperature: 0.9, seed: 5 },
          { temperature: 1.1, topK: 40, seed: 6 },
        ],
        30,
      ));
  });

  test("counts bytes, and measures what both sides do", async () => {
    const { sequences, logits } = await bed.prefilled([400]);
    const parts = await bed.spread(sequences, [20]);
    using hybrid = await model.decodeHybrid(parts, { hostPages, cpuShare: 0.5 });
    await hybrid.start(logits);
    for (let i = 0; i < 5; i++) await hybrid.step();
    const { stats } = hybrid;
    const pageBytes = hostPages.bytes / hostSlots;
    expect(stats.steps).toBe(5);
    expect(stats.bytesStreamed).toBe(5 * 10 * pageBytes);
    expect(stats.shares).toEqual({ cpu: 0.5, streamed: 0.5 });
    expect(stats.cpuMicroseconds).toBeGreaterThan(0);
    expect(stats.copyMicroseconds).toBeGreaterThan(0);
    for (const sequence of [...sequences, ...parts.map((part) => part.sequence)]) sequence.dispose();
    logits.dispose();
  });

  describe("while the device is held up", () => {
    /** Steps of more operations than a stream takes, behind a gate that opens after a second or two. */
    async function held(body: (hybrid: HybridDecode, gate: Event, sequence: Sequence) => Promise<void>): Promise<void> {
      const { sequences, logits } = await bed.prefilled([500]);
      const parts = await bed.spread(sequences, [30]);
      using hybrid = await model.decodeHybrid(parts, { hostPages, cpuShare: 0.1, chunkPages: 1 });
      await hybrid.start(logits);
      using slow = openDevice("cpu", { threads: 1 });
      using gate = slow.createEvent();
      using out = slow.empty("i32", [1]);
      probeFma(slow.stream, { out, iterations: 5000 });
      slow.stream.record(gate);
      model.stream.wait(gate);
      await body(hybrid, gate, parts[0]?.sequence as Sequence);
      for (const sequence of [...sequences, ...parts.map((part) => part.sequence)]) sequence.dispose();
      logits.dispose();
      model.cache.checkIntegrity();
    }

    test("steps are enqueued as it gets on, and the event loop is free", () =>
      held(async (hybrid, gate) => {
        const steps = [hybrid.step(), hybrid.step(), hybrid.step()];
        for (let i = 0; i < 20; i++) await setImmediate();
        expect([gate.query(), hybrid.stats.steps]).toEqual([false, 0]);
        const tokens = await Promise.all(steps);
        expect(tokens.map(({ length }) => length)).toEqual([1, 1, 1]);
        expect(hybrid.stats.steps).toBe(3);
      }));

    test("memory is released meanwhile, and products of new shapes are asked for", () =>
      held(async (hybrid) => {
        const steps = [hybrid.step(), hybrid.step()];
        await setImmediate();
        const pinned = device.backend === "cuda" ? { pinnedFor: device } : {};
        (await allocateHostTensor(host, "u8", [8 << 20], pinned)).dispose();
        using stream = device.createStream();
        using transfers = device.createTransferStream();
        await transfers.finished();
        for (const rows of [3, 37, 129]) {
          using x = device.zeros("f32", [rows, 48], { stream });
          using weight = device.zeros("f32", [80, 48], { stream });
          using out = device.empty("f32", [rows, 80]);
          linear(stream, { x, weight, out });
          expect((await out.readFloats({ stream })).every((value) => value === 0)).toBe(true);
        }
        expect((await Promise.all(steps)).map(({ length }) => length)).toEqual([1, 1]);
      }));

    test("a decode may be disposed in the middle of a step", () =>
      held(async (hybrid) => {
        const steps = [hybrid.step(), hybrid.step()];
        for (let i = 0; i < 20; i++) await setImmediate();
        for (const step of steps) step.catch(() => undefined); // one is awaited after the other
        hybrid.dispose();
        for (const step of steps) await expectRejection("ERR_KVASIR_DISPOSED", [/Hybrid decode was disposed/], step);
      }));

    test("its sequence may be disposed then, and what gets its pages is whole", async () => {
      const tokens = ids.slice(100, 100 + 3 * pageSize);
      const logitsOf = async (): Promise<{ sequence: Sequence; values: Float32Array }> => {
        const sequence = model.createSequence();
        using logits = await model.prefill([{ sequence, tokens }]);
        return { sequence, values: await logits.readFloats() };
      };
      const alone = await logitsOf();
      await held(async (hybrid, _gate, sequence) => {
        const step = hybrid.step();
        step.catch(() => undefined); // awaited below
        for (let i = 0; i < 20; i++) await setImmediate();
        const { row } = sequence;
        const table = model.cache.groups[0]?.table;
        const slots = [...(table?.pages(row) ?? [])].map((_, entry) => table?.slot(row, entry));
        sequence.dispose();
        const coming = logitsOf();
        await expectRejection("ERR_KVASIR_DISPOSED", [/Sequence was disposed/], step);
        const after = await coming;
        expect(slots).toContain(table?.slot(after.sequence.row, 0));
        expect(after.values).toEqual(alone.values);
        after.sequence.dispose();
      });
      alone.sequence.dispose();
    });
  });

  describe("refuses", () => {
    test("pools and options that do not fit", async () => {
      using sequence = model.createSequence();
      const one = [{ sequence, hostSlots: new Int32Array(0) }];
      const bad = (change: object): Promise<HybridDecode> =>
        model.decodeHybrid(one, { hostPages, ...change } as unknown as HybridOptions);
      const code = "ERR_KVASIR_INVALID_ARGUMENT";
      await expectRejection(code, [/hostPages is 5, expected a tensor of a CPU device/], bad({ hostPages: 5 }));
      await expectRejection(code, [/cpuShare is 1.5, expected a number from 0 to 1/], bad({ cpuShare: 1.5 }));
      await expectRejection(code, [/sampling has 2 entries, expected 1/], bad({ sampling: [{}, {}] }));
      await expectRejection(code, [/chunkPages is 0/], bad({ chunkPages: 0 }));
      await expectRejection("ERR_KVASIR_UNKNOWN_OPTION", [/cpuShares/], bad({ cpuShares: 1 }));
      await expectRejection(code, [/sequences.length is 0, expected an integer from 1/], model.decodeHybrid([], { hostPages }));
      using narrow = host.zeros("f32", [4, 100]);
      await expectRejection(
        "ERR_KVASIR_SHAPE",
        [/hostPages is f32 \[4, 100\], expected f32 \[slots, /],
        bad({ hostPages: narrow }),
      );
      const outside = [{ sequence, hostSlots: Int32Array.of(3, hostSlots) }];
      await expectRejection(
        "ERR_KVASIR_PAGE_OUT_OF_RANGE",
        [new RegExp(`hostSlots has ${hostSlots}, expected 0 to ${hostSlots - 1}`)],
        model.decodeHybrid(outside, { hostPages }),
      );
    });

    test("keys that are stored before RoPE", async () => {
      using other = await loadModel(device, modelFolder, { dtype: "f32", pageSize, cacheTokens: 256, storeRotated: false });
      using sequence = other.createSequence();
      const one = [{ sequence, hostSlots: new Int32Array(0) }];
      await expectRejection("ERR_KVASIR_UNSUPPORTED", [/keys are stored before RoPE/], other.decodeHybrid(one, { hostPages }));
    });

    test("steps where the device has no page left, and after dispose", async () => {
      using small = await loadModel(device, modelFolder, { dtype: "f32", pageSize, cacheTokens: 16 });
      using sequence = small.createSequence();
      using logits = await small.prefill([{ sequence, tokens: ids.slice(0, 33 * pageSize) }]);
      const hybrid = await small.decodeHybrid([{ sequence, hostSlots: new Int32Array(0) }], { hostPages });
      await hybrid.start(logits);
      await expectRejection("ERR_KVASIR_OUT_OF_PAGES", [/Need 1 page/], hybrid.step());
      expect(sequence.length).toBe(33 * pageSize);
      hybrid.dispose();
      hybrid.dispose();
      await expectRejection("ERR_KVASIR_DISPOSED", [/Hybrid decode was disposed/], hybrid.step());
    });
  });
});
