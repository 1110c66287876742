/** Hybrid decode of suspended sequences of a model with tiers: their pages stay where they are, and nobody overwrites them meanwhile. */
import { afterAll, beforeAll, expect, test } from "vitest";
import type { KvCache } from "../../lib/cache/kv_cache.js";
import { type HybridDecode, loadModel, type Model, type Sequence, type Tensor } from "../../lib/index.js";
import { eachBackend } from "../device.js";
import { expectError, expectRejection } from "../expect_error.js";
import { maxDifference, modelFolder } from "./golden.js";
import { decoded, HybridBed, hostSlots, pageSize } from "./hybrid_bed.js";

eachBackend((device) => {
  let bed: HybridBed;
  let model: Model;
  let hostPages: Tensor;
  let ids: number[];
  beforeAll(async () => {
    bed = await HybridBed.open(device);
    ({ model, hostPages, ids } = bed);
  });
  afterAll(() => bed.dispose());

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
