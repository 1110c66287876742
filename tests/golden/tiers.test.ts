/** What tiers promise: wherever a sequence's pages were in the meantime, the model goes on with the same bits. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  type CacheTiers,
  type Device,
  type KvEvent,
  loadModel,
  type Model,
  type ModelOptions,
  type Sequence,
} from "../../lib/index.js";
import { eachBackend } from "../device.js";
import { onRedis, RedisServer } from "../redis_server.js";
import { golden, modelFolder } from "./golden.js";

const pageBytesOf = ({ cache }: Model): number => cache.groups[0]?.format.pageBytes as number;

/** Reads tokens and makes `count` more, greedily; the sequence holds all but the last of them afterwards. */
async function turn(model: Model, sequence: Sequence, tokens: readonly number[], count: number): Promise<number[]> {
  const made: number[] = [];
  for await (const { token } of model.generate(tokens, { sequence, maxTokens: count, stopTokens: [] })) made.push(token);
  return made;
}

eachBackend((device: Device) => {
  let folder: string;
  let ids: number[];
  let expected: number[][];
  const options: ModelOptions = { chunkTokens: 256, cacheTokens: 2048, batchInvariant: true };
  /** Three turns of a text, with the last token of each answer put before the next question. */
  const texts = (from: number): number[][] => [
    ids.slice(from, from + 500),
    ids.slice(from + 500, from + 537),
    ids.slice(from + 600, from + 700),
  ];

  async function talk(model: Model, from: number, between: (sequence: Sequence) => Promise<void>): Promise<number[]> {
    using sequence = model.createSequence();
    const made: number[] = [];
    for (const text of texts(from)) {
      const before = made.length > 0 ? [made[made.length - 1] as number] : [];
      made.push(...(await turn(model, sequence, [...before, ...text], 20)));
      await between(sequence);
    }
    return made;
  }

  const pageBytesOfModel = async (): Promise<number> => {
    using model = await loadModel(device, modelFolder, { ...options, cacheTokens: 64 });
    return pageBytesOf(model);
  };

  const open = (tiers: NonNullable<ModelOptions["tiers"]>, extra: ModelOptions = {}): Promise<Model> =>
    loadModel(device, modelFolder, { ...options, ...extra, tiers });

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "kvasir-tiers-"));
    ids = [...(await golden("ids_1024")).ints];
    using model = await loadModel(device, modelFolder, options);
    expected = [await talk(model, 0, async () => undefined), await talk(model, 100, async () => undefined)];
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  describe("a model with tiers", () => {
    test("with write-through, a suspended sequence is copied before anybody asks, and leaves at the cost of its last pages", async () => {
      const model = await open({ host: { bytes: 64 << 20, writeThrough: true } });
      const tiers = model.tiers as CacheTiers;
      const made = await talk(model, 0, async (sequence) => {
        tiers.suspend(sequence);
        await tiers.idle();
        // But for pages that are not sealed: those of which the answer's tokens were not told.
        expect(tiers.dirtyBytes(sequence)).toBeLessThanOrEqual(2 * pageBytesOf(model));
        const after = tiers.stats().moves.outPages;
        expect(after).toBeGreaterThanOrEqual(Math.floor(sequence.length / 64) - 1);
        await tiers.swapOut(sequence);
        expect(tiers.stats().moves.outPages - after).toBeLessThanOrEqual(2);
        model.cache.checkIntegrity();
        await tiers.resume(sequence).ready;
      });
      expect(made).toEqual(expected[0]);
      await model.close();
    });

    test("swaps a sequence to host memory and back between turns, and goes on with the same bits", async () => {
      const model = await open({ host: { bytes: 64 << 20 } });
      const tiers = model.tiers as CacheTiers;
      const made = await talk(model, 0, async (sequence) => {
        const { bytes } = await tiers.swapOut(sequence);
        expect(bytes).toBeGreaterThan(0);
        expect(tiers.missingPages(sequence)).toBe(Math.ceil(sequence.length / 64));
        model.cache.checkIntegrity();
        await tiers.resume(sequence).ready;
        model.cache.checkIntegrity();
      });
      expect(made).toEqual(expected[0]);
      const { moves } = tiers.stats();
      expect(moves.failures).toBe(0);
      expect(moves.inPages).toBeGreaterThan(moves.outPages); // what was copied out once and not written since is not copied again
      await model.close();
    });

    test("a second swap-out copies exactly the pages that changed", async () => {
      const model = await open({ host: { bytes: 64 << 20 } });
      const tiers = model.tiers as CacheTiers;
      using sequence = model.createSequence();
      await turn(model, sequence, ids.slice(0, 640), 1);
      const before = sequence.length;
      expect((await tiers.swapOut(sequence)).bytes).toBe(Math.ceil(before / 64) * pageBytesOf(model));
      await tiers.resume(sequence).ready;
      await turn(model, sequence, ids.slice(640, 700), 1);
      const changed = Math.ceil(sequence.length / 64) - Math.floor(before / 64);
      expect(tiers.dirtyBytes(sequence)).toBe(changed * pageBytesOf(model));
      expect((await tiers.swapOut(sequence)).bytes).toBe(changed * pageBytesOf(model));
      sequence.dispose();
      model.cache.checkIntegrity();
      await model.close();
    });

    test("keeps more sequences than the device holds, and swaps each in for its turn", async () => {
      const model = await open({ host: { bytes: 256 << 20 } }, { cacheTokens: 1024 });
      const tiers = model.tiers as CacheTiers;
      const sequences = Array.from({ length: 4 }, () => model.createSequence());
      const made: number[][] = sequences.map(() => []);
      for (const part of [0, 1, 2]) {
        for (const [i, sequence] of sequences.entries()) {
          if (part > 0) await tiers.resume(sequence).ready;
          else await tiers.makeRoom(12);
          const mine = made[i] as number[];
          const before = mine.length > 0 ? [mine[mine.length - 1] as number] : [];
          await tiers.makeRoom(6);
          mine.push(...(await turn(model, sequence, [...before, ...(texts(i % 2 === 0 ? 0 : 100)[part] as number[])], 20)));
          tiers.suspend(sequence);
          model.cache.checkIntegrity();
        }
      }
      made.forEach((tokens, i) => {
        expect(tokens).toEqual(expected[i % 2]);
      });
      for (const sequence of sequences) sequence.dispose();
      await tiers.idle();
      model.cache.checkIntegrity();
      await model.close();
    });

    test("finds a prefix that another sequence read, and goes on with the same bits", async () => {
      const model = await open({ host: { bytes: 64 << 20 } });
      const tiers = model.tiers as CacheTiers;
      const text = ids.slice(0, 500);
      {
        using first = model.createSequence();
        expect(await turn(model, first, text, 20)).toEqual((expected[0] as number[]).slice(0, 20));
      }
      using second = model.createSequence();
      const adopted = await tiers.adopt(second, Int32Array.from(text));
      expect(adopted).toBe(448);
      expect(await turn(model, second, text.slice(adopted), 20)).toEqual((expected[0] as number[]).slice(0, 20));
      using stranger = model.createSequence({ salt: "other" });
      expect(await tiers.adopt(stranger, Int32Array.from(text))).toBe(0);
      model.cache.checkIntegrity();
      await model.close();
    });

    test("tells of its pages by events and metrics", async () => {
      const model = await open({ host: { bytes: 64 << 20 } });
      const tiers = model.tiers as CacheTiers;
      const told: KvEvent[] = [];
      const stop = tiers.events.subscribe((batch) => {
        if (!batch.gap) told.push(...batch.events);
      });
      const text = ids.slice(0, 300);
      using first = model.createSequence();
      await turn(model, first, text, 1);
      await tiers.swapOut(first);
      using second = model.createSequence();
      expect(await tiers.adopt(second, Int32Array.from(text))).toBe(256);
      await tiers.idle();
      await new Promise((resolve) => setImmediate(resolve));
      stop();
      const stored = told.filter(({ kind }) => kind === "stored");
      expect(stored.length).toBe(4);
      stored.slice(1).forEach(({ parent }, i) => {
        expect(parent).toBe(stored[i]?.key);
      });
      expect(told.some(({ kind, tiers: held }) => kind === "moved" && held.join() === "ddr")).toBe(true);
      const text004 = tiers.metrics.text();
      expect(text004).toMatch(/^kvasir_adopted_tokens_total 256$/m);
      expect(text004).toMatch(/^kvasir_found_tokens_total\{tier="host"\} 256$/m);
      expect(text004).toMatch(/^kvasir_moved_bytes_total\{direction="out"\} [1-9]/m);
      await model.close();
    });

    test("swaps sequences through a host pool that is smaller than any of them", async () => {
      using probe = await loadModel(device, modelFolder, options);
      const path = join(folder, `passage-${device.backend}`);
      const model = await open({ host: { bytes: 3 * pageBytesOf(probe) }, disk: { path, maxBytes: 64 * pageBytesOf(probe) } });
      const tiers = model.tiers as CacheTiers;
      let isFirst = true;
      const made = await talk(model, 0, async (sequence) => {
        const pages = Math.ceil(sequence.length / 64);
        if (isFirst) await tiers.swapOut(sequence);
        else {
          tiers.suspend(sequence);
          expect(await tiers.makeRoom(tiers.devicePages)).toBe(tiers.devicePages);
        }
        isFirst = false;
        expect(tiers.missingPages(sequence)).toBe(pages);
        const before = tiers.stats().keyed.disk?.loadedBytes as number;
        await tiers.resume(sequence).ready;
        expect((tiers.stats().keyed.disk?.loadedBytes as number) - before).toBeGreaterThanOrEqual(
          (pages - 3) * pageBytesOf(model),
        );
        model.cache.checkIntegrity();
      });
      expect(made).toEqual(expected[0]);
      await model.close();
    });

    test("finds on disk what an earlier process wrote", async () => {
      const path = join(folder, `slab-${device.backend}`);
      const tiersOf = { host: { bytes: 64 << 20 }, disk: { path, maxBytes: 256 << 20 } };
      const text = ids.slice(0, 500);
      const first = await open(tiersOf);
      {
        using sequence = first.createSequence();
        await turn(first, sequence, text, 20);
        await first.tiers?.flush(sequence);
      }
      await first.close();
      const second = await open(tiersOf);
      using sequence = second.createSequence();
      const adopted = await (second.tiers as CacheTiers).adopt(sequence, Int32Array.from(text));
      expect(adopted).toBe(448);
      expect(second.tiers?.stats().foundTokens.disk).toBe(448);
      expect(await turn(second, sequence, text.slice(adopted), 20)).toEqual((expected[0] as number[]).slice(0, 20));
      sequence.dispose();
      second.cache.checkIntegrity();
      await second.close();
    });

    test("brings pages of a sequence that comes next from disk to the host pool", async () => {
      const path = join(folder, `slab-ahead-${device.backend}`);
      const bytes = await pageBytesOfModel();
      const model = await open({ host: { bytes: 12 * bytes }, disk: { path, maxBytes: 256 << 20 } });
      const tiers = model.tiers as CacheTiers;
      using first = model.createSequence();
      using second = model.createSequence({ salt: "other" });
      const expectedTokens = await turn(model, first, ids.slice(0, 500), 20);
      await turn(model, second, ids.slice(0, 500), 20);
      for (const sequence of [first, second]) {
        await tiers.swapOut(sequence);
        await tiers.flush(sequence);
      }
      const loaded = (): number => tiers.stats().keyed.disk?.loads ?? 0;
      const before = loaded();
      tiers.lookAhead([first]);
      await tiers.idle();
      expect(loaded()).toBeGreaterThan(before);
      const after = loaded();
      tiers.lookAhead([first]); // the same list again costs nothing
      await tiers.idle();
      expect(loaded()).toBe(after);
      await tiers.resume(first).ready;
      expect(loaded()).toBe(after);
      expect(expectedTokens).toEqual((expected[0] as number[]).slice(0, 20));
      model.cache.checkIntegrity();
      await model.close();
    });

    onRedis("over a Redis server", () => {
      test("finds in a shared store what another model wrote, and goes on with the same bits", async () => {
        const server = await RedisServer.start();
        const tiersOf = { host: { bytes: 64 << 20 }, remote: { url: server.url } };
        const text = ids.slice(0, 500);
        const first = await open(tiersOf);
        {
          using sequence = first.createSequence({ salt: "shared" });
          await turn(first, sequence, text, 20);
          await first.tiers?.flush(sequence);
        }
        const second = await open(tiersOf);
        using stranger = second.createSequence({ salt: "another" });
        expect(await (second.tiers as CacheTiers).adopt(stranger, Int32Array.from(text))).toBe(0);
        using sequence = second.createSequence({ salt: "shared" });
        const adopted = await (second.tiers as CacheTiers).adopt(sequence, Int32Array.from(text));
        expect(adopted).toBe(448);
        expect(second.tiers?.stats().foundTokens.remote).toBe(448);
        expect(await turn(second, sequence, text.slice(adopted), 20)).toEqual((expected[0] as number[]).slice(0, 20));
        await first.close();
        await second.close();
        await server.stop();
      });
    });

    test("runs on without a shared store that does not answer, and says so", async () => {
      const warnings: string[] = [];
      const onWarning = (text: string): void => void warnings.push(text);
      const model = await open({ host: { bytes: 64 << 20 }, remote: { url: "redis://127.0.0.1:1", onWarning } });
      const tiers = model.tiers as CacheTiers;
      using sequence = model.createSequence();
      expect(await tiers.adopt(sequence, Int32Array.from(ids.slice(0, 500)))).toBe(0);
      expect(await turn(model, sequence, ids.slice(0, 500), 20)).toEqual((expected[0] as number[]).slice(0, 20));
      await tiers.flush(sequence);
      expect(warnings.length).toBeGreaterThan(0);
      await model.close();
    });
  });
});
