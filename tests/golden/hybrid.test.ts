/** Decoding with pages on the device, in host memory under the CPU, and streamed: the same tokens as from pages on the device alone. */
import { setImmediate } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  allocateHostTensor,
  type Device,
  type Event,
  type HybridDecode,
  type HybridOptions,
  type HybridSequence,
  linear,
  loadModel,
  type Model,
  openDevice,
  probeFma,
  type Sampling,
  type Sequence,
  type Tensor,
} from "../../lib/index.js";
import { random } from "../attention_cases.js";
import { runSeed } from "../attention_check.js";
import { eachBackend } from "../device.js";
import { expectError, expectRejection } from "../expect_error.js";
import type { KvCache } from "../../lib/cache/kv_cache.js";
import { golden, maxDifference, modelFolder } from "./golden.js";

const pageSize = 16;
const hostSlots = 96;

eachBackend((device) => {
  const draw = random(runSeed);
  let host: Device;
  let model: Model;
  let hostPages: Tensor;
  let ids: number[];
  beforeAll(async () => {
    host = openDevice("cpu", { threads: 2 });
    model = await loadModel(device, modelFolder, { dtype: "f32", pageSize, cacheTokens: 4096, chunkTokens: 256 });
    const pinned = device.backend === "cuda" ? { pinnedFor: device } : {};
    hostPages = await allocateHostTensor(host, "f32", [hostSlots, model.store.pages(0).shape[1] as number], pinned);
    ids = [...(await golden("ids_1024")).ints];
  });
  afterAll(() => {
    model.dispose();
    hostPages.dispose();
    host.dispose();
  });

  const shuffled = (count: number): Int32Array => {
    const order = Int32Array.from({ length: count }, (_, i) => i);
    for (let i = count - 1; i > 0; i--) {
      const j = Math.floor(draw() * (i + 1));
      [order[i], order[j]] = [order[j] as number, order[i] as number];
    }
    return order;
  };

  /** Prefilled sequences, and their logits after the last token. */
  async function prefilled(lengths: readonly number[]): Promise<{ sequences: Sequence[]; logits: Tensor }> {
    const sequences = lengths.map(() => model.createSequence());
    const items = sequences.map((sequence, i) => ({ sequence, tokens: ids.slice(7 * i, 7 * i + (lengths[i] as number)) }));
    return { sequences, logits: await model.prefill(items) };
  }

  /**
   * The same tokens with `pages` random full pages of each sequence in the host pool, in any slots and any order; everything else of the
   * pool is NaN, and so are the pages of the new sequences before what belongs there is copied in.
   */
  async function spread(sequences: readonly Sequence[], pages: readonly number[]): Promise<HybridSequence[]> {
    const table = model.cache.groups[0]?.table;
    const devicePages = model.store.pages(0);
    hostPages.fill(0xff);
    await host.stream.finished();
    const free = [...shuffled(hostSlots)];
    const result = sequences.map((source, i) => {
      const full = Math.floor(source.length / pageSize);
      const gone = new Set(shuffled(full).subarray(0, pages[i]));
      const entries = Array.from({ length: Math.ceil(source.length / pageSize) }, (_, entry) => entry);
      const copy = (to: Tensor, toSlot: number, entry: number): void => {
        using from = devicePages.select(table?.slot(source.row, entry) as number);
        using target = to.select(toSlot);
        target.copyFrom(from, { stream: model.stream });
      };
      const slots = Int32Array.from(
        shuffled(full).filter((entry) => gone.has(entry)),
        (entry) => {
          const slot = free.pop() as number;
          copy(hostPages, slot, entry);
          return slot;
        },
      );
      const sequence = model.createSequence();
      const length = source.length - gone.size * pageSize;
      sequence.reserve(length);
      sequence.commit(length);
      const kept = entries.filter((entry) => !gone.has(entry));
      kept.forEach((entry, place) => {
        const slot = table?.slot(sequence.row, place) as number;
        using target = devicePages.select(slot);
        target.fill(0xff, { stream: model.stream });
        copy(devicePages, slot, entry);
      });
      return { sequence, hostSlots: slots };
    });
    await model.stream.finished();
    return result;
  }

  interface Decoded {
    tokens: number[][];
    logits: Float32Array;
  }

  /** `count` steps, the device one ahead of what is read. */
  async function decoded(
    batch: Pick<HybridDecode, "start" | "step" | "logits">,
    logits: Tensor,
    count: number,
  ): Promise<Decoded> {
    const tokens = [[...(await batch.start(logits))]];
    let coming = batch.step();
    for (let i = 1; i < count; i++) {
      const next = batch.step();
      tokens.push([...(await coming)]);
      coming = next;
    }
    tokens.push([...(await coming)]);
    return { tokens, logits: (await batch.logits.readFloats()).subarray(0, model.config.vocabSize * (tokens[0]?.length ?? 0)) };
  }

  async function check(
    lengths: readonly number[],
    pages: readonly number[],
    options: Omit<HybridOptions, "hostPages">,
    sampling?: readonly Sampling[],
    steps = 20,
  ): Promise<HybridDecode["stats"]> {
    const { sequences, logits } = await prefilled(lengths);
    const parts = await spread(sequences, pages);
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
        const lengths = Array.from({ length: 1 + Math.floor(draw() * 2) }, () => 1 + Math.floor(draw() * 500));
        const pages = lengths.map((length) => Math.floor(draw() * (Math.floor(length / pageSize) + 1)));
        const chunkPages = 1 + Math.floor(draw() * 12);
        await check(lengths, pages, { cpuShare: draw(), chunkPages, ringChunks: 1 + Math.floor(draw() * 5) });
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

  describe("of suspended sequences", () => {
    const pageBytes = (): number => hostPages.bytes / hostSlots;
    /** A model of its own with a host pool, on a device that holds no more than `devicePages` pages. */
    const withTiers = (devicePages: number, bytes = 80 * pageBytes()): Promise<Model> =>
      loadModel(device, modelFolder, {
        dtype: "f32",
        pageSize,
        cacheTokens: (devicePages - 32) * pageSize,
        chunkTokens: 256,
        tiers: { host: { bytes } },
      });
    const steps = 40;
    const prompt = (): number[] => ids.slice(0, 500);

    async function expectedOf(tokens: readonly number[]): Promise<number[]> {
      using sequence = model.createSequence();
      using logits = await model.prefill([{ sequence, tokens }]);
      using batch = model.decode([sequence]);
      return (await decoded(batch, logits, steps)).tokens.flat();
    }

    /** Suspended, with all pages in the host pool. */
    async function swappedOut(tiered: Model, tokens: readonly number[]): Promise<{ sequence: Sequence; logits: Tensor }> {
      const sequence = tiered.createSequence();
      const logits = await tiered.prefill([{ sequence, tokens }]);
      await tiered.tiers?.swapOut(sequence);
      return { sequence, logits };
    }

    test("pages stay where they are, and the sequence goes on elsewhere afterwards", async () => {
      const expected = await expectedOf(prompt());
      const tiered = await withTiers(40);
      const { sequence, logits } = await swappedOut(tiered, prompt());
      // Others take the room: the device has 40 pages, and this one needs 32.
      const other = tiered.createSequence();
      (await tiered.prefill([{ sequence: other, tokens: ids.slice(300, 300 + 30 * pageSize) }])).dispose();
      const hybrid = await tiered.decodeHybrid([sequence], { devicePages: 2, chunkPages: 4, cpuShare: 0.5 });
      expect(tiered.tiers?.stats().moves.inPages).toBe(2);
      const tokens = (await decoded(hybrid, logits, 20)).tokens.flat();
      expect(tokens).toEqual(expected.slice(0, 21));
      expect(hybrid.stats.cpuPages + hybrid.stats.streamedPages).toBe(30);
      expect(hybrid.stats.devicePages).toBe(Math.ceil(520 / pageSize) - 30);
      expectError("ERR_KVASIR_INVALID_ARGUMENT", [/sequence decodes in hybrid form/], () => sequence.reserve(1));
      tiered.cache.checkIntegrity();
      hybrid.dispose();
      expect([tiered.cache.isSuspended(sequence.row), sequence.length]).toEqual([true, 520]);
      await tiered.tiers?.swapOut(other);
      await tiered.tiers?.resume(sequence).ready;
      const plain = tiered.decode([sequence]);
      plain.startFrom([tokens[20] as number]);
      const rest: number[] = [];
      for (let i = 20; i < steps; i++) rest.push(...(await plain.step()));
      expect(rest).toEqual(expected.slice(21));
      plain.dispose();
      tiered.cache.checkIntegrity();
      logits.dispose();
      await tiered.close();
    });

    test("in bf16 results are as near to those of f32 as a plain decode's", async () => {
      const tokens = prompt();
      const next = [ids[500] as number];
      const stepped = async (batch: Pick<HybridDecode, "startFrom" | "step" | "logits">): Promise<Float32Array> => {
        batch.startFrom(next);
        await batch.step();
        return (await batch.logits.readFloats()).slice(0, model.config.vocabSize);
      };
      using exactly = model.createSequence();
      (await model.prefill([{ sequence: exactly, tokens }])).dispose();
      using exact = model.decode([exactly]);
      const expected = await stepped(exact);
      const tiered = await loadModel(device, modelFolder, {
        dtype: "bf16",
        pageSize,
        cacheTokens: 1024,
        tiers: { host: { bytes: 80 * pageBytes() } },
      });
      const sequence = tiered.createSequence();
      (await tiered.prefill([{ sequence, tokens }])).dispose();
      const plainly = sequence.fork();
      const plain = tiered.decode([plainly]);
      const error = maxDifference(await stepped(plain), expected);
      plain.dispose();
      plainly.dispose();
      for (const cpuShare of [0, 0.4, 1]) {
        await tiered.tiers?.swapOut(sequence);
        using hybrid = await tiered.decodeHybrid([sequence], { cpuShare, chunkPages: 5 });
        const found = maxDifference(await stepped(hybrid), expected);
        expect(found, `cpuShare ${cpuShare}`).toBeLessThanOrEqual(2 * error);
        expect(hybrid.stats.cpuPages + hybrid.stats.streamedPages).toBe(31);
        hybrid.dispose();
        await tiered.tiers?.resume(sequence).ready;
        sequence.truncate(500);
      }
      await tiered.close();
    });

    test("a fork that is resumed meanwhile brings shared pages to the device, and both go on", async () => {
      const expected = await expectedOf(prompt());
      const tiered = await withTiers(80);
      const { sequence, logits } = await swappedOut(tiered, prompt());
      const fork = sequence.fork();
      const hybrid = await tiered.decodeHybrid([sequence], { chunkPages: 3 });
      const tokens = [...(await hybrid.start(logits))];
      for (let i = 0; i < 10; i++) tokens.push(...(await hybrid.step()));
      expect(hybrid.stats.cpuPages + hybrid.stats.streamedPages).toBe(31);
      await tiered.tiers?.resume(fork).ready;
      tokens.push(...(await hybrid.step()));
      const after = await hybrid.logits.readFloats();
      const plain = tiered.decode([fork]);
      const forked = [...(await plain.start(logits))];
      for (let i = 0; i < 11; i++) forked.push(...(await plain.step()));
      // A page that were attended to in both places would count twice.
      expect(maxDifference(after, await plain.logits.readFloats())).toBeLessThanOrEqual(5e-4);
      for (let i = 11; i < steps; i++) tokens.push(...(await hybrid.step()));
      expect(hybrid.stats.cpuPages + hybrid.stats.streamedPages).toBe(0);
      expect(tokens).toEqual(expected);
      expect(forked).toEqual(expected.slice(0, forked.length));
      plain.dispose();
      hybrid.dispose();
      fork.dispose();
      tiered.cache.checkIntegrity();
      logits.dispose();
      await tiered.close();
    });

    test("host pages stay while it runs, also those that a fork has brought to the device", async () => {
      const tiered = await withTiers(120, 33 * pageBytes());
      const { sequence, logits } = await swappedOut(tiered, prompt());
      const fork = sequence.fork();
      const hybrid = await tiered.decodeHybrid([sequence]);
      await tiered.tiers?.resume(fork).ready;
      const { pool } = tiered.cache.groups[0] as KvCache["groups"][number];
      const onHost = (): number => [...tiered.cache.rowPages(0, sequence.row)].filter((page) => pool.isValid(page, 1)).length;
      const before = onHost();
      const other = tiered.createSequence();
      (await tiered.prefill([{ sequence: other, tokens: ids.slice(300, 300 + 20 * pageSize) }])).dispose();
      // There is no room for it: what a step may be reading is not overwritten.
      await tiered.tiers?.swapOut(other);
      expect([before, onHost(), tiered.tiers?.stats().moves.outPages]).toEqual([32, 32, 33]);
      hybrid.dispose();
      await tiered.tiers?.swapOut(other);
      expect(onHost()).toBeLessThan(32);
      tiered.cache.checkIntegrity();
      logits.dispose();
      await tiered.close();
    });

    test("refuses running ones, those of models without a host pool, and too many device pages", async () => {
      const tiered = await withTiers(40);
      const { sequence, logits } = await swappedOut(tiered, prompt());
      const running = tiered.createSequence();
      (await tiered.prefill([{ sequence: running, tokens: ids.slice(300, 300 + 20 * pageSize) }])).dispose();
      const code = "ERR_KVASIR_INVALID_ARGUMENT";
      await expectRejection(code, [/sequence is not suspended; suspend it/], tiered.decodeHybrid([running]));
      await expectRejection(code, [/devicePages is 0/], tiered.decodeHybrid([sequence], { devicePages: 0 }));
      await expectRejection(
        "ERR_KVASIR_OUT_OF_PAGES",
        [/Need 32 pages but only 20 of 40 can be freed/],
        tiered.decodeHybrid([sequence], { devicePages: 50 }),
      );
      expect(tiered.cache.isSuspended(sequence.row)).toBe(true);
      using plain = model.createSequence();
      await expectRejection(code, [/hostPages is missing/], model.decodeHybrid([plain]));
      await expectRejection(code, [/expected a model with tiers.host/], model.decodeHybrid([plain], { hostPages }));
      tiered.cache.checkIntegrity();
      logits.dispose();
      await tiered.close();
    });
  });

  test("counts bytes, and measures what both sides do", async () => {
    const { sequences, logits } = await prefilled([400]);
    const parts = await spread(sequences, [20]);
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
      const { sequences, logits } = await prefilled([500]);
      const parts = await spread(sequences, [30]);
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
