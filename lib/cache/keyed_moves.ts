/**
 * Stores and loads of pages in keyed tiers (disk, shared store), with their books. Nothing here throws for a page: a store that fails
 * leaves the page where it is, a load that fails leaves it absent, and both are counted.
 *
 * Sealed pages go under the key of their tokens. A page that is not sealed belongs to one sequence; it goes under a random key that only
 * this process knows.
 */
import { randomFillSync } from "node:crypto";
import type { PageMover } from "./page_mover.js";
import { MARK_LOAD, MARK_STORE, type PagePool, TIER_DISK, TIER_REMOTE } from "./page_pool.js";
import { FAILED, KEY_WORDS, LOADED, type PageBatch, PRESENT, STORED, type TierDriver } from "./tier_driver.js";

/** The bit of a page that tells whether a keyed tier is thought to hold it. */
export const tierBit = ({ name }: TierDriver): number => (name === "disk" ? TIER_DISK : TIER_REMOTE);

interface PrivateKey {
  epoch: number;
  key: Uint32Array;
  /** Bits of the tiers that hold the page; the pool keeps them for sealed pages only. */
  tiers: number;
}

export class KeyedMoves {
  readonly drivers: readonly TierDriver[];
  /** Whether compute reads pages of the host pool where they lie: slots there are written once it has done what it was given, then. */
  isHostRead = false;
  readonly #pools: readonly PagePool[];
  readonly #pageSize: number;
  readonly #mover: PageMover;
  readonly #privateKeys: Map<number, PrivateKey>[];
  readonly #running: Set<Promise<unknown>> = new Set();

  constructor(pools: readonly PagePool[], pageSize: number, drivers: readonly TierDriver[], mover: PageMover) {
    this.#pools = pools;
    this.#pageSize = pageSize;
    this.drivers = drivers;
    this.#mover = mover;
    this.#privateKeys = pools.map(() => new Map());
  }

  /** The arena whose slots keyed tiers read and write: the host pool where there is one. */
  get arena(): number {
    return (this.#pools[0] as PagePool).numArenas - 1;
  }

  /** Stores and loads that are under way. */
  get pending(): number {
    return this.#running.size;
  }

  /** Resolves when one of those under way is over; where there is none, never. */
  next(): Promise<unknown> {
    return Promise.race(this.#running);
  }

  async idle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }

  /** Whether a keyed tier, from `first` on, is thought to hold the page. */
  holds(group: number, page: number, first = 0): boolean {
    return this.drivers.some((_, driver) => driver >= first && this.#isHeld(group, page, driver));
  }

  /** The first keyed tier that is thought to hold the page, or -1. */
  firstHolder(group: number, page: number): number {
    return this.drivers.findIndex((_, driver) => this.#isHeld(group, page, driver));
  }

  /**
   * Writes pages to the first tier that takes them, beginning with `first`. Their slots in the lowest arena are valid. Resolves with
   * whether each is held by a tier afterwards.
   */
  store(group: number, pages: readonly number[], first = 0): Promise<boolean[]> {
    return this.#track(this.#store(group, pages, first));
  }

  /** Bits of the tiers that seem to hold each key. */
  async lookup(group: number, keys: Uint32Array, signal?: AbortSignal): Promise<Uint8Array> {
    const count = keys.length / KEY_WORDS;
    const bits = new Uint8Array(count);
    const held = await Promise.all(this.drivers.map((driver) => answers(count, 0, () => driver.lookup(group, keys, signal))));
    held.forEach((isHeld, driver) => {
      for (let i = 0; i < count; i++)
        if (isHeld[i] !== 0) bits[i] = (bits[i] as number) | tierBit(this.drivers[driver] as TierDriver);
    });
    return bits;
  }

  /** Brings pages from the tiers that hold them into the slots of the lowest arena that they have been given. Resolves with which came. */
  load(group: number, pages: readonly number[]): Promise<boolean[]> {
    return this.#track(this.#load(group, pages));
  }

  /** Has the tiers forget a page that only this process could ask for. */
  forgetPrivate(group: number, page: number): void {
    const keys = this.#privateKeys[group] as Map<number, PrivateKey>;
    const known = keys.get(page);
    if (known === undefined) return;
    keys.delete(page);
    this.#removeKey(group, known.key);
  }

  /** A key that nobody knows any more is evicted in time, at the latest. */
  #removeKey(group: number, key: Uint32Array): void {
    for (const driver of this.drivers) driver.remove(group, key).catch(() => undefined);
  }

  async #store(group: number, pages: readonly number[], first: number): Promise<boolean[]> {
    const pool = this.#pools[group] as PagePool;
    const epochs = pages.map((page) => pool.mark(page, MARK_STORE));
    if (this.arena === 0) await this.#mover.quiet();
    const held = pages.map(() => false);
    for (let driver = first; driver < this.drivers.length; driver++) {
      const left = pages.flatMap((page, i) => (held[i] || pool.isGone(page) ? [] : [i]));
      if (left.length === 0) break;
      const some = left.map((i) => pages[i] as number);
      const records = some.map((page) => (pool.isSealed(page) ? undefined : this.#privateKey(group, page)));
      const batch = this.#batch(group, some);
      const statuses = await answers(some.length, FAILED, () => (this.drivers[driver] as TierDriver).store(batch));
      left.forEach((i, at) => {
        const isStored = statuses[at] === STORED || statuses[at] === PRESENT;
        if (isStored) held[i] = this.#noteStored(group, pages[i] as number, driver, records[at]);
      });
    }
    pages.forEach((page, i) => {
      pool.unmark(page, MARK_STORE, epochs[i] as number);
    });
    return held;
  }

  /** A tier has what the page held, under its own key or that of a record. False where that is of no use any more. */
  #noteStored(group: number, page: number, driver: number, record: PrivateKey | undefined): boolean {
    const pool = this.#pools[group] as PagePool;
    if (record === undefined) {
      if (pool.isGone(page)) return false;
      pool.setTier(page, tierBit(this.drivers[driver] as TierDriver), true);
      return true;
    }
    // Its sequence may have gone on meanwhile: then the page is another one, or has another key.
    const isCurrent = this.#privateKeys[group]?.get(page) === record && !pool.isGone(page) && !pool.isSealed(page);
    if (isCurrent) record.tiers |= tierBit(this.drivers[driver] as TierDriver);
    else this.#removeKey(group, record.key);
    return isCurrent;
  }

  async #load(group: number, pages: readonly number[]): Promise<boolean[]> {
    const pool = this.#pools[group] as PagePool;
    const epochs = pages.map((page) => pool.mark(page, MARK_LOAD));
    if (this.arena === 0 || this.isHostRead) await this.#mover.quiet();
    const come = pages.map(() => false);
    for (let driver = 0; driver < this.drivers.length; driver++) {
      const asked = pages.flatMap((page, i) => (!come[i] && !pool.isGone(page) && this.#isHeld(group, page, driver) ? [i] : []));
      if (asked.length === 0) continue;
      const some = asked.map((i) => pages[i] as number);
      const batch = this.#batch(group, some);
      const statuses = await answers(some.length, FAILED, () => (this.drivers[driver] as TierDriver).load(batch));
      asked.forEach((i, at) => {
        const page = pages[i] as number;
        come[i] = statuses[at] === LOADED;
        if (!come[i] && !pool.isGone(page)) this.#forgetHolder(group, page, driver);
      });
    }
    pages.forEach((page, i) => {
      if (come[i]) pool.setValid(page, this.arena, true);
      const isAlive = pool.unmark(page, MARK_LOAD, epochs[i] as number);
      if (isAlive && !come[i] && !pool.isValid(page, this.arena)) pool.dropSlot(page, this.arena);
    });
    return come;
  }

  #batch(group: number, pages: readonly number[]): PageBatch {
    const pool = this.#pools[group] as PagePool;
    const batch: PageBatch = {
      group,
      keys: new Uint32Array(pages.length * KEY_WORDS),
      parents: new Uint32Array(pages.length * KEY_WORDS),
      tokens: new Int32Array(pages.length * this.#pageSize).fill(-1),
      slots: Int32Array.from(pages, (page) => pool.slot(page, this.arena)),
    };
    pages.forEach((page, i) => {
      if (!pool.isSealed(page)) {
        batch.keys.set(this.#privateKey(group, page).key, i * KEY_WORDS);
        return;
      }
      pool.key(page, batch.keys, i * KEY_WORDS);
      pool.parentKey(page, batch.parents, i * KEY_WORDS);
      batch.tokens.set(pool.tokensOf(page), i * this.#pageSize);
    });
    return batch;
  }

  #isHeld(group: number, page: number, driver: number): boolean {
    const pool = this.#pools[group] as PagePool;
    if (pool.isSealed(page)) return pool.hasTier(page, tierBit(this.drivers[driver] as TierDriver));
    const known = this.#privateKeys[group]?.get(page);
    return (
      known !== undefined && known.epoch === pool.epoch(page) && (known.tiers & tierBit(this.drivers[driver] as TierDriver)) !== 0
    );
  }

  #forgetHolder(group: number, page: number, driver: number): void {
    const pool = this.#pools[group] as PagePool;
    if (pool.isSealed(page)) pool.setTier(page, tierBit(this.drivers[driver] as TierDriver), false);
    else this.#privateKey(group, page).tiers &= ~tierBit(this.drivers[driver] as TierDriver);
  }

  /** What is known of a page that is not sealed; a record of an earlier page of that id is replaced. */
  #privateKey(group: number, page: number): PrivateKey {
    const keys = this.#privateKeys[group] as Map<number, PrivateKey>;
    const epoch = (this.#pools[group] as PagePool).epoch(page);
    const known = keys.get(page);
    if (known?.epoch === epoch) return known;
    const fresh = { epoch, key: randomFillSync(new Uint32Array(KEY_WORDS)), tiers: 0 };
    keys.set(page, fresh);
    return fresh;
  }

  #track<T>(work: Promise<T>): Promise<T> {
    const over = work.finally(() => this.#running.delete(over));
    this.#running.add(over);
    return over;
  }
}

/** What a tier says of each page; should it throw, which it must not, the same as if it could not answer. */
async function answers(count: number, otherwise: number, ask: () => Promise<Uint8Array>): Promise<Uint8Array> {
  try {
    return await ask();
  } catch {
    return new Uint8Array(count).fill(otherwise);
  }
}
