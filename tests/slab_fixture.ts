/** Disk tiers over temporary files, and pages whose bytes follow from their key: whoever holds a page can tell whether it is right. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect } from "vitest";
import { type DiskTierOptions, openDiskTier } from "../lib/cache/disk_tier.js";
import {
  type Device,
  type DiskTier,
  type PageBatch,
  TIER_VERSION,
  type Tensor,
  type TierIdentity,
  openDevice,
} from "../lib/index.js";

export const PAGE_SIZE = 16;
/** Of the file: its header, the index of an extent, a page's header. */
export const HEADER = 65_536;
export const INDEX = 65_536;
export const PAGE_HEADER = 4096;
export const ENTRY = 64;

const mix = (seed: number): number => {
  let x = Math.imul(seed ^ (seed >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
  return (x ^ (x >>> 15)) >>> 0;
};

export function keyOf(number: number): Uint32Array {
  return Uint32Array.from({ length: 4 }, (_, word) => mix(number * 4 + word + 1));
}

export function tokensOf(number: number): Int32Array {
  const held = number % 5 === 0 ? PAGE_SIZE - 3 : PAGE_SIZE; // some pages are not full
  return Int32Array.from({ length: PAGE_SIZE }, (_, i) => (i < held ? mix(number * 977 + i) >>> 8 : -1));
}

/** f(key): every byte depends on the page, its group and the place. */
export function contentOf(number: number, group: number, bytes: number): Uint8Array {
  const words = new Uint32Array(Math.ceil(bytes / 4));
  let state = mix(number * 31 + group + 7) | 1;
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    words[i] = state ^ (state >>> 15);
  }
  return new Uint8Array(words.buffer, 0, bytes);
}

/** Pages of these numbers, one a slot in this order, or in the slots given. */
export function batchOf(numbers: readonly number[], group = 0, slots?: readonly number[]): PageBatch {
  const join = (of: (number: number) => Uint32Array): Uint32Array => Uint32Array.from(numbers.flatMap((n) => [...of(n)]));
  return {
    group,
    keys: join(keyOf),
    parents: join((number) => keyOf(number - 1)),
    tokens: Int32Array.from(numbers.flatMap((number) => [...tokensOf(number)])),
    slots: Int32Array.from(slots ?? numbers.map((_, i) => i)),
  };
}

export const keysOf = (numbers: readonly number[]): Uint32Array => batchOf(numbers).keys;
export const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);
export const statuses = (of: Uint8Array): string => [...of].join("");

export function identityOf(pageBytes: readonly number[], model = "test"): TierIdentity {
  const group = (bytes: number, index: number) => ({
    layers: [index],
    numKvHeads: 1,
    headDim: 64,
    format: "identity",
    pageBytes: bytes,
    storeRotated: true,
  });
  return { version: TIER_VERSION, model, dtype: "u8", pageSize: PAGE_SIZE, groups: pageBytes.map(group) };
}

/** Bytes of a file for so many pages; room of at most 1024. */
export const roomFor = (pages: number, pageBytes: number): number =>
  HEADER + INDEX + pages * (PAGE_HEADER + Math.ceil(pageBytes / 4096) * 4096);

/** Host pools of one device, with the tiers and the folder of a test file. */
export class SlabFixture {
  readonly cpu: Device = openDevice("cpu");
  readonly folder = mkdtempSync(join(tmpdir(), "kvasir-slab-"));
  readonly #tiers: DiskTier[] = [];
  readonly #pools: Tensor[] = [];
  #files = 0;

  constructor() {
    afterAll(async () => {
      await Promise.all(this.#tiers.map((tier) => tier.close()));
      for (const pool of this.#pools) pool.dispose();
      this.cpu.dispose();
      rmSync(this.folder, { recursive: true, force: true });
    });
  }

  path(): string {
    return join(this.folder, `${this.#files++}.slab`);
  }

  /** Poisoned: no byte of it is a page's by chance. */
  pool(slots: number, pageBytes: number): Tensor {
    const pool = this.cpu.empty("u8", [slots, pageBytes]);
    this.#pools.push(pool);
    pool.fill(0xa5);
    return pool;
  }

  async open(pools: readonly Tensor[], options: Partial<DiskTierOptions> = {}): Promise<DiskTier> {
    const pageBytes = pools.map((pool) => pool.shape[1] as number);
    const most = Math.max(...pageBytes);
    await this.cpu.stream.finished(); // pools may still be being filled
    const tier = await openDiskTier({
      path: this.path(),
      maxBytes: roomFor(64, most),
      identity: identityOf(pageBytes),
      pools,
      ...options,
    });
    this.#tiers.push(tier);
    return tier;
  }

  /** Puts pages where `batchOf` says, in slots 0, 1, ... */
  async fill(pool: Tensor, numbers: readonly number[], group = 0): Promise<void> {
    const pageBytes = pool.shape[1] as number;
    for (const [slot, number] of numbers.entries()) await writePage(pool, slot, contentOf(number, group, pageBytes));
  }

  async poison(pool: Tensor): Promise<void> {
    pool.fill(0xa5);
    await this.cpu.stream.finished();
  }
}

async function writePage(pool: Tensor, slot: number, bytes: Uint8Array): Promise<void> {
  using row = pool.select(slot);
  await row.write(bytes);
}

export async function pageIn(pool: Tensor, slot: number): Promise<Uint8Array> {
  using row = pool.select(slot);
  return (await row.read()) as Uint8Array;
}

export async function expectPages(pool: Tensor, numbers: readonly number[], slots: readonly number[], group = 0): Promise<void> {
  for (const [i, number] of numbers.entries()) {
    const found = await pageIn(pool, slots[i] as number);
    const same = Buffer.compare(found, contentOf(number, group, pool.shape[1] as number)) === 0;
    expect(same, `page ${number} in slot ${slots[i]}`).toBe(true);
  }
}

/** Stores pages from a pool's first slots and expects all to be taken. */
export async function storeAll(fixture: SlabFixture, tier: DiskTier, pool: Tensor, numbers: readonly number[]): Promise<void> {
  await fixture.fill(pool, numbers);
  expect(statuses(await tier.store(batchOf(numbers)))).toBe("0".repeat(numbers.length));
}
