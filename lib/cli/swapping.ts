/** Opens a model for a cache mode; where the mode says so, its sequences leave the device between turns, and every switch is checked. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type CacheTiers, type Device, KvasirError, loadModel, type Model, type ModelOptions, type Sequence } from "../index.js";
import { secondsSince } from "./common.js";
import type { CacheMode } from "./modes.js";

/** What the switches of a mode moved, and how long they took. */
export interface SwapCounts {
  tier: "ddr" | "disk";
  /** Times that all sequences left the device and came back. */
  switches: number;
  bytesOut: number;
  bytesIn: number;
  secondsOut: number;
  secondsIn: number;
}

/** A model, and what is to be done between its turns. */
export interface OpenMode {
  model: Model;
  swapping: Swapping | undefined;
  /** Frees the model and what it wrote to disk. */
  close(): Promise<void>;
}

/** The slab file may hold the pages of so many full caches. */
const slabCaches = 3;
/** With a disk tier the host pool is a passage for one page in so many, so that most come back from disk. */
const passageShare = 16;
const leastPassagePages = 4;

/** @throws what `loadModel` throws */
export async function openMode(
  device: Device,
  directory: string,
  mode: CacheMode,
  options: ModelOptions & { cacheTokens: number },
): Promise<OpenMode> {
  const { swapsTo } = mode;
  const common = { ...mode.options, ...options };
  if (swapsTo === undefined) {
    const model = await loadModel(device, directory, common);
    return { model, swapping: undefined, close: () => model.close() };
  }
  const { pages, pageBytes } = await measureCache(device, directory, common);
  const folder = swapsTo === "disk" ? await mkdtemp(join(tmpdir(), "kvasir-swap-")) : undefined;
  const removeFolder = async (): Promise<void> => {
    if (folder !== undefined) await rm(folder, { recursive: true, force: true });
  };
  const hostPages = folder === undefined ? pages : Math.max(leastPassagePages, Math.ceil(pages / passageShare));
  const disk = folder === undefined ? undefined : { path: join(folder, "pages.slab"), maxBytes: slabCaches * pages * pageBytes };
  try {
    const model = await loadModel(device, directory, { ...common, tiers: { host: { bytes: hostPages * pageBytes }, disk } });
    const close = async (): Promise<void> => {
      await model.close();
      await removeFolder();
    };
    return { model, swapping: new Swapping(model, swapsTo, hostPages), close };
  } catch (error) {
    await removeFolder();
    throw error;
  }
}

/** Pages of the cache that these options ask for, and bytes of one: a property of checkpoint, dtype and page size. */
async function measureCache(
  device: Device,
  directory: string,
  options: ModelOptions & { cacheTokens: number },
): Promise<{ pages: number; pageBytes: number }> {
  using model = await loadModel(device, directory, { ...options, cacheTokens: 1 });
  const { groups, pageSize } = model.cache;
  const extra = groups[0]?.pool.numSlots(0) as number;
  const pageBytes = groups.reduce((sum, { format }) => sum + format.pageBytes, 0);
  return { pages: Math.ceil(options.cacheTokens / pageSize) + extra, pageBytes };
}

/** Takes sequences off the device and back, and makes sure that it was no pretence. */
export class Swapping {
  readonly counts: SwapCounts;
  readonly #model: Model;
  readonly #tiers: CacheTiers;
  readonly #hostPages: number;

  constructor(model: Model, tier: "ddr" | "disk", hostPages: number) {
    this.counts = { tier, switches: 0, bytesOut: 0, bytesIn: 0, secondsOut: 0, secondsIn: 0 };
    this.#model = model;
    this.#tiers = model.tiers as CacheTiers;
    this.#hostPages = hostPages;
  }

  /**
   * All sequences of the model, the longest first: off the device, and back.
   * @throws ERR_KVASIR_INTERNAL where pages stayed, fewer bytes moved than they have, or some came back damaged
   */
  async switchAll(sequences: readonly Sequence[]): Promise<void> {
    const { counts } = this;
    const tiers = this.#tiers;
    const first = sequences[0] as Sequence;
    const lengths = sequences.map(({ length }) => length);
    const dirtyBytes = tiers.dirtyBytes(first);
    const before = this.#moved();
    const leaving = performance.now();
    for (const sequence of sequences) await tiers.swapOut(sequence);
    if (counts.tier === "disk") for (const sequence of sequences) await tiers.flush(sequence);
    counts.secondsOut += secondsSince(leaving);
    const pages = sequences.map((sequence) => Math.ceil(sequence.length / this.#model.cache.pageSize));
    sequences.forEach((sequence, i) => {
      this.#check("pages that left the device", tiers.missingPages(sequence), pages[i] as number);
    });
    const between = this.#moved();
    const returning = performance.now();
    for (const sequence of sequences) await tiers.resume(sequence).ready;
    counts.secondsIn += secondsSince(returning);
    sequences.forEach((sequence, i) => {
      this.#check("tokens that came back", sequence.length, lengths[i] as number);
    });
    const after = this.#moved();
    const pageBytes = this.#model.cache.groups.reduce((sum, { format }) => sum + format.pageBytes, 0);
    // What is not sealed is written when its room is needed only, and the host pool's last pages need not be read back.
    const [unwritten, kept] = counts.tier === "disk" ? [1, this.#hostPages] : [0, 0];
    this.#check("bytes moved out", between.out - before.out, dirtyBytes - unwritten * pageBytes);
    this.#check("bytes moved in", after.in - between.in, ((pages[0] as number) - kept) * pageBytes);
    counts.switches++;
    counts.bytesOut += after.out - before.out;
    counts.bytesIn += after.in - before.in;
  }

  /** Bytes that the mode's tier took and gave so far. */
  #moved(): { out: number; in: number } {
    const { moves, keyed } = this.#tiers.stats();
    const { disk } = keyed;
    if (this.counts.tier === "ddr" || disk === undefined) return { out: moves.outBytes, in: moves.inBytes };
    return { out: disk.storedBytes, in: disk.loadedBytes };
  }

  #check(what: string, count: number, least: number): void {
    if (count >= least) return;
    const { tier } = this.counts;
    throw new KvasirError("ERR_KVASIR_INTERNAL", `Switch through ${tier}: ${what} are ${count}, expected at least ${least}`);
  }
}
