/** Pools, pages with contents that follow from their key, and tiers over them, for tests of the remote tier. */
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "vitest";
import { openRemoteTier, type RemoteTier, type RemoteTierOptions } from "../lib/cache/remote_tier.js";
import type { PageBatch } from "../lib/cache/tier_driver.js";
import { TIER_VERSION, type TierIdentity } from "../lib/cache/tier_identity.js";
import { type Device, openDevice, type Tensor } from "../lib/index.js";

export const POISON = 0xee;

export function identityOf(pageBytes: readonly number[], model = "test", pageSize = 16): TierIdentity {
  const groups = pageBytes.map((bytes, i) => {
    return { layers: [i], numKvHeads: 1, headDim: 64, format: "identity", pageBytes: bytes, storeRotated: true };
  });
  return { version: TIER_VERSION, model, dtype: "u8", pageSize, groups };
}

export const randomWords = (count: number): Uint32Array => {
  const bytes = randomBytes(4 * count);
  return Uint32Array.from({ length: count }, (_, i) => bytes.readUInt32LE(4 * i));
};

/** The bytes of the page of this key. */
export function contents(key: Uint32Array, bytes: number): Uint8Array {
  let [a = 0, b = 0, c = 0, d = 0] = key;
  const words = new Uint32Array(Math.ceil(bytes / 4));
  for (let i = 0; i < words.length; i++) {
    const t = a ^ (a << 11);
    [a, b, c] = [b, c, d];
    d = (d ^ (d >>> 19) ^ t ^ (t >>> 8)) >>> 0;
    words[i] = d + i;
  }
  return new Uint8Array(words.buffer, 0, bytes);
}

/** The pages of `from`, which go to or come from other slots. */
export const at = (from: PageBatch, slots: readonly number[]): PageBatch => ({ ...from, slots: Int32Array.from(slots) });

/** Some pages of a batch. */
export const pick = (from: PageBatch, pages: readonly number[]): PageBatch => {
  const run = (array: Uint32Array | Int32Array): number[] => {
    const length = array.length / from.slots.length;
    return pages.flatMap((page) => Array.from(array.subarray(page * length, (page + 1) * length)));
  };
  return {
    group: from.group,
    keys: Uint32Array.from(run(from.keys)),
    parents: Uint32Array.from(run(from.parents)),
    tokens: Int32Array.from(run(from.tokens)),
    slots: Int32Array.from(run(from.slots)),
  };
};

export class RemoteFixture {
  readonly device: Device = openDevice("cpu");
  readonly identity: TierIdentity;
  readonly pools: Tensor[];
  readonly warnings: string[] = [];
  readonly #tiers: RemoteTier[] = [];

  constructor(pageBytes: readonly number[], slots = 64, pageSize = 16) {
    this.identity = identityOf(pageBytes, "test", pageSize);
    this.pools = pageBytes.map((bytes) => this.device.empty("u8", [slots, bytes]));
  }

  async open(url: string, options: Partial<RemoteTierOptions> = {}): Promise<RemoteTier> {
    const onWarning = (text: string): void => void this.warnings.push(text);
    const { identity, pools } = this;
    await this.device.stream.finished();
    const tier = await openRemoteTier({
      url,
      identity,
      pools,
      onWarning,
      timeoutMs: 2000,
      backoffMs: 20,
      maxBackoffMs: 100,
      ...options,
    });
    this.#tiers.push(tier);
    return tier;
  }

  /** Fills every slot; the tier knows of no stream, so this waits for it. */
  async poison(): Promise<void> {
    for (const pool of this.pools) pool.fill(POISON);
    await this.device.stream.finished();
  }

  /** Fresh pages in these slots. */
  async pages(group: number, slots: readonly number[]): Promise<PageBatch> {
    const { pageSize } = this.identity;
    const keys = randomWords(4 * slots.length);
    const tokens = new Int32Array(randomWords(pageSize * slots.length)).map((token) => token & 0xfffff);
    for (const [i, slot] of slots.entries()) {
      const bytes = contents(keys.subarray(4 * i, 4 * i + 4), this.#pageBytes(group));
      await this.pools[group]?.slice(slot, slot + 1).write(bytes);
    }
    return { group, keys, parents: randomWords(4 * slots.length), tokens, slots: Int32Array.from(slots) };
  }

  /** Compares slots with what the keys say, or with the poison where a page shall not have come. */
  async expectSlots(batch: PageBatch, came: (page: number) => boolean = () => true): Promise<void> {
    for (const [page, slot] of batch.slots.entries()) {
      const bytes = (await this.pools[batch.group]?.slice(slot, slot + 1).read()) as Uint8Array;
      const expected = came(page)
        ? contents(batch.keys.subarray(4 * page, 4 * page + 4), this.#pageBytes(batch.group))
        : new Uint8Array(this.#pageBytes(batch.group)).fill(POISON);
      expect(Buffer.compare(bytes, expected), `slot ${slot} of page ${page}`).toBe(0);
    }
  }

  async dispose(): Promise<void> {
    for (const tier of this.#tiers.splice(0)) await tier.close();
    for (const pool of this.pools) pool.dispose();
    this.device.dispose();
  }

  #pageBytes(group: number): number {
    return this.identity.groups[group]?.pageBytes as number;
  }
}

/** Waits for a condition that comes about in the background. */
export async function until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  for (let attempt = 0; attempt < 1000; attempt++) {
    if (await condition()) return;
    await sleep(10);
  }
  throw new Error(`it never came about that ${what}`);
}
