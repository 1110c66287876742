/**
 * A cache with tiers over a machine of plain arrays, beside an oracle: a sequence is the text of its tokens. The world carries out
 * operations on both and complains where they differ; it never moves the machine on by itself.
 */
import { CacheTiers } from "../../lib/cache/cache_tiers.js";
import { priority } from "../../lib/cache/eviction_priority.js";
import { evictionPolicy, type PolicyName } from "../../lib/cache/eviction_policies.js";
import { KvCache } from "../../lib/cache/kv_cache.js";
import type { LayerGroup } from "../../lib/cache/page_format.js";
import { NONE } from "../../lib/cache/page_pool.js";
import type { Sequence } from "../../lib/cache/sequence.js";
import { ArrayMover, LaggingStore } from "./array_mover.js";
import { BLANK, beginning, inGroup, POISON, Text } from "./content.js";
import { Machine, PageMemory } from "./machine.js";
import { MemoryTier } from "./memory_tier.js";

export interface WorldConfig {
  /** Layer groups: one, or a second one that sees a window. */
  groups: 1 | 2;
  devicePages: number;
  /** 0: the device pool is all the memory that there is. */
  hostPages: number;
  farPages: number;
  /** Capacity of the keyed tiers; 0: none. */
  disk: number;
  remote: number;
  policy: PolicyName;
  admitAtSecondUse: boolean;
  writeThrough?: boolean | undefined;
  /** Whether copies and keyed tiers fail now and then. */
  faults: boolean;
  /** A deliberate mistake, to see that it is found. */
  sabotage?: Sabotage | undefined;
}

/**
 * Work does not wait for the pages that come; copies do not wait for the work before them; copies are told over when they are enqueued;
 * keyed tiers do not wait for the work before them.
 */
export const sabotages = ["no-hold", "no-edge", "early-end", "no-quiet"] as const;
export type Sabotage = (typeof sabotages)[number];

export const pageSize = 16;
export const window = 20;
export const salts = 3;
/** Sequences at once. */
export const numPlaces = 9;

/** Whether the pages of a resumption came: open until it is told. */
export interface Doubt {
  state: "open" | "came" | "lost";
}

export interface Entry {
  readonly id: number;
  readonly sequence: Sequence;
  readonly text: Text;
  /** "away" while it is suspended or nobody has said yet that it is back; "broken" once its pages did not come. */
  state: "running" | "away" | "broken";
  /** Calls under way that bring it back. */
  returning: number;
  /** How often it was suspended. */
  suspensions: number;
  /** The tokens that it is being filled with, while it is. */
  adopting: Int32Array | undefined;
  /** Tokens that the cache was told of; one more than there are where the next one is decided. */
  noted: number;
  ahead: number | undefined;
  doubts: Doubt[];
  /** It read what a failed copy left. */
  isPoisoned: boolean;
}

const bytesOf = (salt: number): Uint32Array => Uint32Array.of(salt, 7, 11, 13);

export class World {
  readonly config: WorldConfig;
  readonly tiers: MemoryTier[];
  machine!: Machine;
  mover!: ArrayMover;
  store!: LaggingStore;
  cache!: KvCache;
  manager!: CacheTiers;
  device: PageMemory[] = [];
  host: PageMemory[] = [];
  /** Sequences have fixed places, so that a step means the same one when others are left out. */
  readonly places: (Entry | undefined)[] = new Array(numPlaces).fill(undefined);
  pins: Disposable[] = [];
  controllers: AbortController[] = [];
  /** Names of calls that have not ended. */
  readonly pending: Set<{ name: string }> = new Set();
  failure: string | undefined;
  /** What is being done, for complaints. */
  at = "";
  now = 0;
  /** Copies that were made to fail or to be late. */
  moveFaults = 0;
  /** What happened that the tiers do not count. */
  readonly deeds = { reads: 0, poisonedReads: 0, resumed: 0, refused: 0, cut: 0, adopted: 0, restarts: 0 };
  #generation = 0;
  #nextId = 0;
  readonly #ends: Map<string, number> = new Map();

  constructor(config: WorldConfig) {
    this.config = config;
    for (let salt = 0; salt < salts; salt++) this.#ends.set(`0:${salt}:7:11:13`, beginning(salt));
    const kinds = [["disk", config.disk] as const, ["remote", config.remote] as const];
    this.tiers = kinds
      .filter(([, capacity]) => capacity > 0)
      .map(([name, capacity]) => new MemoryTier(name, capacity, this.#ends));
    for (const tier of this.tiers) tier.complain = (what) => this.fail(what);
    this.start();
  }

  get layerGroups(): LayerGroup[] {
    const all: LayerGroup[] = [
      { layers: [0, 2], numKvHeads: 2, headDim: 8, dtype: "f32" },
      { layers: [1], numKvHeads: 1, headDim: 16, dtype: "bf16", window },
    ];
    return all.slice(0, this.config.groups);
  }

  /** Whether nothing can be lost: no faults, and keyed tiers that keep everything. */
  get isAmple(): boolean {
    return !this.config.faults && this.tiers.length > 0 && this.tiers.every(({ capacity }) => capacity >= 1e6);
  }

  /** A new cache over the same keyed tiers; whatever was under way is forgotten. */
  start(): void {
    this.#generation++;
    this.deeds.restarts++;
    const { config } = this;
    this.pending.clear();
    this.places.fill(undefined);
    this.pins = [];
    this.controllers = [];
    this.machine = new Machine();
    const memories = (slots: number): PageMemory[] => this.layerGroups.map(() => new PageMemory(slots, pageSize, BLANK));
    this.device = memories(config.devicePages);
    this.host = config.hostPages > 0 ? memories(config.hostPages) : [];
    for (const tier of this.tiers) {
      tier.crash();
      tier.memories = config.hostPages > 0 ? this.host : this.device;
    }
    this.mover = new ArrayMover(this.machine, this.device, this.host, config.sabotage);
    this.store = new LaggingStore(this.machine, this.device);
    const policy = config.policy === "priority" ? priority({ now: () => this.now }) : evictionPolicy(config.policy);
    const { devicePages: maxPages, hostPages, farPages, admitAtSecondUse, writeThrough } = config;
    const options = { groups: this.layerGroups, pageSize, maxPages, hostPages, farPages, policies: [policy, policy] };
    this.cache = new KvCache(options, this.store);
    const drivers = this.tiers.map((tier) => tier.driver());
    this.manager = new CacheTiers({ cache: this.cache, mover: this.mover, drivers, admitAtSecondUse, writeThrough });
  }

  fail(what: string): void {
    this.failure ??= `${what} (in ${this.at})`;
  }

  /** Follows a call to its end. Whatever is thrown must be told by `allows`. */
  track<T>(name: string, promise: Promise<T>, ok: (value: T) => void, refused: (error: unknown) => boolean): void {
    const generation = this.#generation;
    const call = { name: `${name} of ${this.at}` };
    this.pending.add(call);
    const end = (act: () => void): void => {
      if (generation !== this.#generation) return;
      this.pending.delete(call);
      try {
        act();
      } catch (error) {
        this.fail(`${name}: ${String((error as Error).stack)}`);
      }
    };
    promise.then(
      (value) => end(() => ok(value)),
      (error: unknown) =>
        end(() => {
          if (!refused(error)) this.fail(`${name} threw ${String((error as Error).stack ?? error)}`);
        }),
    );
  }

  get entries(): Entry[] {
    return this.places.filter((entry) => entry !== undefined);
  }

  /** Whether the place that a number stands for is empty. */
  isFree(number: number): boolean {
    return this.places[number % numPlaces] === undefined;
  }

  open(number: number, salt: number): Entry {
    return this.enter(number, this.cache.createSequence(bytesOf(salt)), new Text(salt), "running");
  }

  enter(number: number, sequence: Sequence, text: Text, state: Entry["state"]): Entry {
    const id = this.#nextId++;
    const none = { returning: 0, suspensions: 0, adopting: undefined, noted: 0, ahead: undefined };
    const entry: Entry = { id, sequence, text, state, ...none, doubts: [], isPoisoned: false };
    this.places[number % numPlaces] = entry;
    return entry;
  }

  leave(entry: Entry): void {
    entry.sequence.dispose();
    const index = this.places.indexOf(entry);
    if (index >= 0) this.places[index] = undefined;
  }

  /** The entry in the place that a number stands for. One that is broken is disposed, for nobody may do anything else with it. */
  pick(number: number): Entry | undefined {
    const entry = this.places[number % numPlaces];
    if (entry?.state !== "broken") return entry;
    this.leave(entry);
    return undefined;
  }

  /** Has the compute stream read all that a next token of the entry sees. Returns whether that was poison, once it is read. */
  read(entry: Entry): { isPoison: boolean } {
    const { cache, store, machine } = this;
    const { text, sequence } = entry;
    const result = { isPoison: false };
    if (text.length === 0) return result;
    cache.flush();
    for (const [group, { table }] of cache.groups.entries()) {
      const from = group === 0 ? 0 : Math.max(0, text.length - (window - 1));
      const firstPage = Math.floor(from / pageSize);
      const pages = Math.ceil(text.length / pageSize);
      const start = table.rowStart(sequence.row);
      if (table.pages(sequence.row).subarray(firstPage, pages).includes(NONE)) {
        this.fail(`sequence ${entry.id} of ${text.length} tokens has a hole in group ${group}`);
        return result;
      }
      const slots = (store.tables[group] as Int32Array).slice(start + firstPage, start + pages);
      const expected = text.hashes.slice(from, text.length);
      const { at } = this;
      machine.compute(() => this.#compare(entry, group, slots, from - firstPage * pageSize, expected, at, result));
    }
    return result;
  }

  #compare(
    entry: Entry,
    group: number,
    slots: Int32Array,
    skip: number,
    expected: Int32Array,
    at: string,
    result: { isPoison: boolean },
  ): void {
    const { words } = this.device[group] as PageMemory;
    this.deeds.reads++;
    for (let i = 0; i < expected.length; i++) {
      const place = i + skip;
      const slot = slots[place >> 4] as number;
      const word = words[slot * pageSize + (place & (pageSize - 1))];
      if (word === inGroup(expected[i] as number, group)) continue;
      if (word === POISON) {
        entry.isPoisoned = true;
        this.deeds.poisonedReads++;
        result.isPoison = true;
        return;
      }
      this.fail(
        `sequence ${entry.id} reads ${word} for token ${i} of ${expected.length} in slot ${slot} of group ${group}, expected ${inGroup(expected[i] as number, group)}; asked in ${at}`,
      );
      return;
    }
  }
}
