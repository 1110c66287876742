/**
 * A keyed tier in memory. Calls wait until they are let go, in any order; a store reads its pages then, at the latest moment, and a load
 * leaves garbage in its slots from the start. It holds at most `capacity` pages, forgets the least recently used first, survives restarts
 * of the cache, and fails on request. What is stored under the key of known tokens is checked at once.
 */
import {
  DAMAGED,
  FAILED,
  KEY_WORDS,
  LOADED,
  MISSING,
  type PageBatch,
  PRESENT,
  REFUSED,
  STORED,
  type TierDriver,
  type TierStats,
} from "../../lib/cache/tier_driver.js";
import { after, BLANK, inGroup } from "./content.js";
import type { PageMemory } from "./machine.js";

interface StoredPage {
  words: Int32Array;
  tokens: Int32Array;
  parent: string;
}

/** What the next call meets: nothing, or a page that is missing, damaged, refused, or a call that fails as a whole or throws. */
export const faults = ["none", "one", "damaged", "failed", "refused", "throws"] as const;
export type Fault = (typeof faults)[number];

const name = (group: number, keys: Uint32Array, at: number): string =>
  `${group}:${keys[at]}:${keys[at + 1]}:${keys[at + 2]}:${keys[at + 3]}`;

export class MemoryTier {
  readonly name: "disk" | "remote";
  readonly capacity: number;
  readonly held: Map<string, StoredPage> = new Map();
  /** Calls that are under way. */
  waiting: (() => void)[] = [];
  fault: Fault = "none";
  /** Pages that were pushed out, and faults that were met: reasons why a page may be gone. */
  losses = 0;
  /** Told of contents that are not those of the tokens. */
  complain: (what: string) => void = () => undefined;
  /** The host or device memory that slots lie in, by group; another one after a restart. */
  memories: readonly PageMemory[] = [];
  readonly #counts: TierStats;
  #life = 0;
  /** Hashes after the pages of known tokens, by key without the group. */
  readonly #ends: Map<string, number>;

  constructor(tier: "disk" | "remote", capacity: number, ends: Map<string, number>) {
    this.name = tier;
    this.capacity = capacity;
    this.#ends = ends;
    const zero = { pages: 0, bytes: 0, capacityBytes: capacity, loads: 0, loadedBytes: 0, stores: 0, storedBytes: 0 };
    this.#counts = { ...zero, misses: 0, damaged: 0, failures: 0, refused: 0 };
  }

  lookup(group: number, keys: Uint32Array, signal?: AbortSignal): Promise<Uint8Array> {
    return this.#later(() => {
      const isDown = this.#take("failed") || signal?.aborted === true;
      return Uint8Array.from({ length: keys.length / KEY_WORDS }, (_, i) =>
        !isDown && this.held.has(name(group, keys, i * KEY_WORDS)) ? 1 : 0,
      );
    });
  }

  load(batch: PageBatch): Promise<Uint8Array> {
    const memory = this.memories[batch.group] as PageMemory;
    for (const slot of batch.slots) memory.fillPage(slot, BLANK);
    return this.#later(() => {
      if (this.#take("failed")) return new Uint8Array(batch.slots.length).fill(FAILED);
      const isDamaged = this.#take("damaged");
      const isMissing = this.#take("one");
      return Uint8Array.from(batch.slots, (slot, i) => {
        if (i === batch.slots.length - 1 && (isDamaged || isMissing)) {
          this.held.delete(name(batch.group, batch.keys, i * KEY_WORDS));
          return isDamaged ? DAMAGED : MISSING;
        }
        return this.#loadOne(batch, i, memory, slot);
      });
    });
  }

  store(batch: PageBatch): Promise<Uint8Array> {
    const memory = this.memories[batch.group] as PageMemory;
    return this.#later(() => {
      if (this.#take("failed")) return new Uint8Array(batch.slots.length).fill(FAILED);
      if (this.#take("refused")) return new Uint8Array(batch.slots.length).fill(REFUSED);
      const isOneRefused = this.#take("one");
      return Uint8Array.from(batch.slots, (slot, i) => {
        if (isOneRefused && i === 0) return REFUSED;
        return this.#storeOne(batch, i, memory.words.slice(slot * memory.pageSize, (slot + 1) * memory.pageSize));
      });
    });
  }

  remove(group: number, keys: Uint32Array): Promise<void> {
    return this.#later(() => {
      for (let at = 0; at < keys.length; at += KEY_WORDS) this.held.delete(name(group, keys, at));
    });
  }

  stats(): TierStats {
    return { ...this.#counts, pages: this.held.size };
  }

  /** Lets the `index`-th call that is under way come to its end. */
  letGo(index: number): void {
    this.waiting.splice(index % this.waiting.length, 1)[0]?.();
  }

  /** The cache has gone: nobody hears of what was under way, and what it asks for after its end does nothing. */
  crash(): void {
    this.waiting = [];
    this.fault = "none";
    this.#life++;
  }

  /** The tier as one life of the cache sees it. */
  driver(): TierDriver {
    const life = this.#life;
    const ifAlive = <T>(act: () => Promise<T>): Promise<T> => (this.#life === life ? act() : new Promise(() => undefined));
    return {
      name: this.name,
      lookup: (group, keys, signal) => ifAlive(() => this.lookup(group, keys, signal)),
      load: (batch) => ifAlive(() => this.load(batch)),
      store: (batch) => ifAlive(() => this.store(batch)),
      remove: (group, keys) => ifAlive(() => this.remove(group, keys)),
      stats: () => this.stats(),
      close: () => Promise.resolve(),
    };
  }

  #later<T>(act: () => T): Promise<T> {
    return new Promise((resolve, reject) =>
      this.waiting.push(() => {
        if (this.#take("throws")) reject(new Error("the tier is broken"));
        else resolve(act());
      }),
    );
  }

  #take(fault: Fault): boolean {
    if (this.fault !== fault) return false;
    this.fault = "none";
    this.losses++;
    return true;
  }

  #loadOne(batch: PageBatch, i: number, memory: PageMemory, slot: number): number {
    const key = name(batch.group, batch.keys, i * KEY_WORDS);
    const page = this.held.get(key);
    if (page === undefined) return MISSING;
    const { pageSize } = memory;
    if (page.parent !== name(0, batch.parents, i * KEY_WORDS)) return DAMAGED;
    for (let k = 0; k < pageSize; k++) if (page.tokens[k] !== batch.tokens[i * pageSize + k]) return DAMAGED;
    memory.words.set(page.words, slot * pageSize);
    this.held.delete(key);
    this.held.set(key, page);
    return LOADED;
  }

  #storeOne(batch: PageBatch, i: number, words: Int32Array): number {
    const at = i * KEY_WORDS;
    const key = name(batch.group, batch.keys, at);
    const known = this.held.get(key);
    if (known !== undefined) {
      this.held.delete(key);
      this.held.set(key, known);
      return PRESENT;
    }
    const tokens = batch.tokens.slice(i * words.length, (i + 1) * words.length);
    const parent = name(0, batch.parents, at);
    if (tokens[0] !== -1) this.#check(batch, at, parent, tokens, words);
    this.held.set(key, { words, tokens, parent });
    if (this.held.size > this.capacity) {
      this.held.delete(this.held.keys().next().value as string);
      this.losses++;
    }
    return STORED;
  }

  #check({ group, keys }: PageBatch, at: number, parent: string, tokens: Int32Array, words: Int32Array): void {
    let hash = this.#ends.get(parent);
    if (hash === undefined) return; // its parent is sealed, but was never stored; readers will see
    for (let i = 0; i < tokens.length; i++) {
      hash = after(hash, tokens[i] as number);
      if (words[i] === inGroup(hash, group)) continue;
      this.complain(
        `${this.name} got ${words[i]} in token ${i} of page ${name(group, keys, at)}, expected ${inGroup(hash, group)}`,
      );
      return;
    }
    this.#ends.set(name(0, keys, at), hash);
  }
}
