/**
 * The tiers below a cache: device pool, host pool, disk, shared store. Sequences that do not run are suspended; their pages stay where
 * they are until the room is needed, then go down tier by tier, and come back at the next resume. Sealed pages outlive their sequences
 * and are found again by their tokens.
 *
 * Everything is safe to call at any time: what is in flight is marked, room is made by one caller at a time, and a sequence that is
 * disposed meanwhile just lets go of its pages.
 */
import { KvasirError } from "../errors.js";
import { KvEvents, type KvTier } from "../observe/kv_events.js";
import { Metrics } from "../observe/metrics.js";
import type { ContextStore, HitTokens, Resumption } from "./context_store.js";
import { ArenaMoves } from "./arena_moves.js";
import { Evictor } from "./evictor.js";
import { KeyedMoves } from "./keyed_moves.js";
import { ComingKeys } from "./coming_keys.js";
import type { KvCache } from "./kv_cache.js";
import type { PageMover } from "./page_mover.js";
import { claimPrefix, dropClaim } from "./prefix_claim.js";
import { NONE, SEALED } from "./page_pool.js";
import { prefetch } from "./prefetch.js";
import { Resuming } from "./resumption.js";
import { SeenFilter } from "./seen_filter.js";
import type { Sequence } from "./sequence.js";
import { PoolEvents, registerPool } from "./pool_events.js";
import { registerTiers } from "./tier_metrics.js";
import { type TierCounts, tierStats, type TiersStats } from "./tier_stats.js";
import { KEY_WORDS, type TierDriver } from "./tier_driver.js";
import { type SpreadOptions, spreadSequence } from "./spreading.js";
import { Turn } from "./turn.js";

export interface CacheTiersOptions {
  cache: KvCache;
  mover: PageMover;
  /** Keyed tiers, the nearest first. */
  drivers?: readonly TierDriver[] | undefined;
  /** Whether a suspended sequence's sealed pages are copied to free slots of the host pool at once; default when their room is needed. */
  writeThrough?: boolean | undefined;
  /** Whether unreferenced pages go to keyed tiers at their second use only; default true. */
  admitAtSecondUse?: boolean | undefined;
  /** Whether the device pool is a GPU's, which events name "hbm"; default false. */
  isOnGpu?: boolean | undefined;
}

/** Most pages of one call to a keyed tier while a sequence is written out. */
const flushPages = 64;

export class CacheTiers implements ContextStore {
  readonly cache: KvCache;
  /** What becomes of sealed pages, numbered, for routers and dashboards. */
  readonly events: KvEvents = new KvEvents();
  /** Counters of the tiers, as a snapshot or as Prometheus text. */
  readonly metrics: Metrics = new Metrics();
  readonly #moves: ArenaMoves;
  readonly #keyed: KeyedMoves;
  readonly #evictor: Evictor;
  readonly #seen: SeenFilter;
  /** Room is made, and what it was made for taken, by one at a time. */
  readonly #turn: Turn = new Turn();
  /** Resumptions that have not got their turn, or are at work. */
  readonly #returning: WeakMap<Sequence, Set<Resuming>> = new WeakMap();
  /** Whether pages can leave the device and come back. */
  readonly hasTiers: boolean;
  readonly #isWriteThrough: boolean;
  readonly #counts: TierCounts;
  /** What was looked ahead to last. */
  #ahead: readonly Sequence[] = [];
  #prefetched: Promise<void> = Promise.resolve();

  constructor(options: CacheTiersOptions) {
    const { cache, mover, drivers = [] } = options;
    this.cache = cache;
    const pools = cache.groups.map(({ pool }) => pool);
    this.#moves = new ArenaMoves(pools, mover);
    this.#keyed = new KeyedMoves(pools, cache.pageSize, drivers, mover);
    this.#seen = new SeenFilter(pools[0]?.numPages ?? 1);
    const key = new Uint32Array(KEY_WORDS);
    const admits = (group: number, page: number): boolean => {
      if (options.admitAtSecondUse === false) return true;
      pools[group]?.key(page, key, 0);
      return this.#seen.isSeenTwice(key);
    };
    this.#evictor = new Evictor(pools, this.#moves, this.#keyed, admits, () => !cache.hasSpread);
    this.#isWriteThrough = options.writeThrough ?? false;
    this.#counts = {
      prompts: 0,
      promptTokens: 0,
      adoptedTokens: 0,
      foundTokens: [0, 0, ...drivers.map(() => 0)],
      lostTokens: 0,
    };
    this.hasTiers = drivers.length > 0 || (pools[0]?.numArenas ?? 1) > 1;
    const arenas: KvTier[] = options.isOnGpu === true ? ["hbm", "ddr"] : ["ddr", "ddr"];
    pools.forEach((pool, group) => {
      new PoolEvents(pool, this.events, group, arenas.slice(0, pool.numArenas));
      registerPool(this.metrics, pool, group, arenas.slice(0, pool.numArenas));
    });
    registerTiers(this.metrics, () => this.stats(), drivers);
    cache.onSealed = (_group, keys, at) => this.#seen.note(keys, at);
  }

  /**
   * Fills the empty sequence with the longest prefix of `tokens` that any tier holds, at most all but the last token. Resolves with how
   * many tokens are in, once their pages are on the device; where there is no room for them it is 0.
   * @throws ERR_KVASIR_INVALID_ARGUMENT for a sequence with tokens, ERR_KVASIR_DISPOSED, the signal's reason
   */
  async adopt(sequence: Sequence, tokens: Int32Array, options: { signal?: AbortSignal | undefined } = {}): Promise<number> {
    const { cache } = this;
    const row = cache.rowOf(sequence);
    if (sequence.length > 0) {
      throw new KvasirError(
        "ERR_KVASIR_INVALID_ARGUMENT",
        `sequence has ${sequence.length} tokens, expected an empty one to adopt into`,
      );
    }
    const { signal } = options;
    this.#counts.prompts++;
    this.#counts.promptTokens += tokens.length;
    const full = Math.floor(Math.max(0, tokens.length - 1) / cache.pageSize);
    if (full === 0) return 0;
    const log = cache.log(row);
    const covered = tokens.slice(0, full * cache.pageSize);
    const coming = ComingKeys.hash(covered, cache.pageSize, log.root);
    const claim = await claimPrefix(cache, this.#keyed, log.root, coming, covered, signal);
    const keys = coming.words;
    if (sequence.disposed || cache.rowPages(0, row).length > 0) {
      dropClaim(claim, cache);
      if (sequence.disposed)
        throw new KvasirError("ERR_KVASIR_DISPOSED", "Sequence was disposed while its prefix was looked for");
      throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", "sequence was given tokens while its prefix was looked for");
    }
    cache.letGoElsewhere(claim.pages);
    cache.adoptPages(row, claim.pages, covered, keys);
    if (sequence.length === 0) {
      cache.unsuspend(row);
      cache.refreshSlots(row);
      return 0;
    }
    for (let at = 0; at < sequence.length / cache.pageSize; at++) this.#seen.note(keys, at * KEY_WORDS);
    const adopted = await this.#bringAdopted(sequence, signal);
    this.#counts.adoptedTokens += adopted;
    return adopted;
  }

  /**
   * The sequence does not run for now: its pages may leave the device when room is needed. A no-op for a suspended one; resumptions under
   * way end with ERR_KVASIR_DISPOSED.
   */
  suspend(sequence: Sequence): void {
    this.#suspend(sequence);
    if (this.#isWriteThrough) this.writeThrough(sequence).catch(() => undefined); // what is not copied now is when it has to go
  }

  /** Device pages that resuming the sequence takes, in the group that lacks most. */
  missingPages(sequence: Sequence): number {
    const row = this.cache.rowOf(sequence);
    return Math.max(
      ...this.cache.groups.map(({ pool }, group) => {
        const pages = this.cache.rowPages(group, row);
        return pages.reduce((sum, page) => sum + (page !== NONE && pool.slot(page, 0) === NONE ? 1 : 0), 0);
      }),
    );
  }

  /** Bytes of the sequence's pages that only the device holds: what `swapOut` would have to copy. */
  dirtyBytes(sequence: Sequence): number {
    const row = this.cache.rowOf(sequence);
    return this.cache.groups.reduce((sum, { pool, format }, group) => {
      const isDirty = (page: number): boolean =>
        pool.isValid(page, 0) && !(pool.numArenas > 1 && pool.isValid(page, 1)) && !this.#keyed.holds(group, page);
      return sum + this.#pages(group, row).filter(isDirty).length * format.pageBytes;
    }, 0);
  }

  /** Brings a suspended sequence back; see `Resumption`. A running one is ready at once. */
  resume(sequence: Sequence, options: { signal?: AbortSignal | undefined } = {}): Resumption {
    const before = sequence.length;
    const resuming = new Resuming(this.cache, this.#moves, this.#keyed, this.#evictor, sequence);
    const isRunning = this.cache.isRunning(this.cache.rowOf(sequence));
    const enqueued = isRunning ? resuming.start() : this.#return(resuming, sequence, options.signal);
    const ready = enqueued.then(() => {
      if (!sequence.disposed) this.#counts.lostTokens += before - sequence.length;
      resuming.found.forEach((tokens, tier) => {
        this.#counts.foundTokens[tier] = (this.#counts.foundTokens[tier] as number) + tokens;
      });
      return resuming.ready();
    });
    ready.catch(() => undefined); // a caller may look at `placed` alone
    const placed = this.#isInArenas(sequence) ? enqueued : undefined;
    enqueued.catch(() => undefined);
    return { ready, placed, waitLayer: (_stream, layer) => resuming.hold(layer) };
  }

  /**
   * Makes a suspended sequence ready to decode in hybrid form: its pages stay where they lie, but for the last ones, which come to the
   * device. They are not moved from there or from the host pool until it is suspended again.
   * @throws (rejection) ERR_KVASIR_OUT_OF_PAGES, ERR_KVASIR_INVALID_ARGUMENT where it is not suspended, or pages lie in keyed tiers alone;
   * ERR_KVASIR_DISPOSED, the signal's reason; it is suspended as before then
   */
  async spread(sequence: Sequence, options: SpreadOptions = {}): Promise<void> {
    const parts = { cache: this.cache, moves: this.#moves, keyed: this.#keyed, evictor: this.#evictor };
    this.#keyed.isHostRead = true;
    await this.#turn.take(() => spreadSequence(parts, sequence, options));
  }

  /** Suspends the sequence and frees its device slots now, but for pages that others run with. Resolves when they are free. */
  async swapOut(sequence: Sequence): Promise<{ bytes: number }> {
    this.#suspend(sequence);
    const { row } = sequence;
    const before = this.#moves.counters.outBytes;
    await this.#turn.take(async () => {
      for (const [group] of this.cache.groups.entries()) {
        if (sequence.disposed) return;
        await this.#evictor.vacate(group, 0, this.#pages(group, row));
      }
    });
    return { bytes: this.#moves.counters.outBytes - before };
  }

  /** Copies the sequence's sealed pages to the host pool, as far as free slots there go, so that leaving the device costs nothing later. */
  async writeThrough(sequence: Sequence): Promise<void> {
    const row = this.cache.rowOf(sequence);
    await Promise.all(
      this.cache.groups.map(async ({ pool }, group) => {
        if (pool.numArenas === 1) return;
        const isLacking = (page: number): boolean =>
          pool.state(page) === SEALED && pool.marks(page) === 0 && pool.isValid(page, 0) && !pool.isValid(page, 1);
        const pages = this.#pages(group, row).filter(isLacking).slice(0, pool.freeSlots(1));
        for (const page of pages) if (pool.slot(page, 1) === NONE) pool.takeSlot(page, 1);
        if (pages.length > 0) await this.#moves.out(group, pages);
      }),
    );
  }

  /**
   * Writes the sequence's sealed pages to the keyed tiers, from `first` on, so that a restart or another process finds them. Where the host
   * pool is full it makes room there.
   */
  async flush(sequence: Sequence, first = 0): Promise<void> {
    this.cache.rowOf(sequence);
    for (const [group, { pool }] of this.cache.groups.entries()) {
      const left = (): number[] =>
        sequence.disposed
          ? []
          : this.#pages(group, sequence.row).filter((page) => pool.isSealed(page) && !this.#keyed.holds(group, page, first));
      for (let pages = left(), before = Number.POSITIVE_INFINITY; pages.length > 0 && pages.length < before; pages = left()) {
        before = pages.length; // those that no tier takes are not tried again
        for (let at = 0; at < pages.length; at += flushPages) {
          const some = pages.slice(at, at + flushPages);
          await this.#turn.take(() => this.#evictor.writeDown(group, sequence.disposed ? [] : some, first));
        }
      }
    }
  }

  /** Frees device pages until `pages` are free in every group, or no more can be. Resolves with how many are. */
  async makeRoom(pages: number): Promise<number> {
    return this.#turn.take(async () => {
      let free = Number.POSITIVE_INFINITY;
      for (const [group] of this.cache.groups.entries()) free = Math.min(free, await this.#evictor.makeRoom(group, 0, pages));
      return free;
    });
  }

  /** Device pages in all: of the layer group that has fewest. */
  get devicePages(): number {
    return Math.min(...this.cache.groups.map(({ pool }) => pool.numSlots(0)));
  }

  /** Device pages that can be reserved right now. */
  freePages(): number {
    return Math.min(...this.cache.groups.map(({ pool }) => pool.numFree));
  }

  noteTokens(sequence: Sequence, position: number, tokens: ArrayLike<number>): void {
    this.cache.noteTokens(this.cache.rowOf(sequence), position, tokens);
  }

  /** Device pages that are free, or that making room frees whatever lies below: copies of others, and pages that nobody refers to. */
  availablePages(): number {
    return Math.min(...this.cache.groups.map(({ pool }) => pool.freeSlots(0) + pool.reclaimable(0)));
  }

  /**
   * These suspended sequences run next, the nearest first: theirs are the last pages to leave the device, and what only keyed tiers hold
   * of them is brought to the host pool. The same list again costs nothing.
   */
  lookAhead(sequences: readonly Sequence[]): void {
    const isSame = sequences.length === this.#ahead.length && sequences.every((sequence, i) => sequence === this.#ahead[i]);
    if (isSame) return;
    this.#ahead = [...sequences];
    for (const sequence of [...sequences].reverse()) {
      if (sequence.disposed) continue;
      for (const [group, { pool }] of this.cache.groups.entries()) {
        pool.touchChain(Int32Array.from(this.#pages(group, sequence.row)));
      }
    }
    if (this.#keyed.drivers.length === 0) return;
    this.#prefetched = this.#prefetched.then(() => prefetch(this.cache, this.#keyed, this.#ahead));
  }

  /** Keeps the sequence's pages alive, in whatever tier, until disposed, also after the sequence is. */
  pin(sequence: Sequence): Disposable {
    return this.cache.pin(this.cache.rowOf(sequence));
  }

  hits(): HitTokens {
    const { foundTokens, lostTokens } = this.stats();
    return { ...foundTokens, recompute: lostTokens };
  }

  stats(): TiersStats {
    return tierStats(this.cache, this.#counts, this.#moves.counters, this.#evictor.counters, this.#keyed.drivers);
  }

  /** Resolves when nothing is in flight. */
  async idle(): Promise<void> {
    await this.#prefetched;
    await this.#turn.take(async () => {
      await this.#moves.idle();
      await this.#keyed.idle();
    });
  }

  /** Ends the keyed tiers, after what is in flight. */
  async close(): Promise<void> {
    await this.idle();
    for (const driver of this.#keyed.drivers) await driver.close();
  }

  #suspend(sequence: Sequence): void {
    const row = this.cache.rowOf(sequence);
    for (const resuming of this.#returning.get(sequence) ?? []) resuming.cancel();
    this.cache.suspend(row);
  }

  /** A prefix that does not fit is not adopted: the tokens are read instead. */
  async #bringAdopted(sequence: Sequence, signal: AbortSignal | undefined): Promise<number> {
    try {
      const resumption = this.resume(sequence, { signal });
      await resumption.ready; // nobody else would hear of a copy that failed
      return sequence.length;
    } catch (error) {
      signal?.throwIfAborted();
      if (sequence.disposed)
        throw new KvasirError("ERR_KVASIR_DISPOSED", "Sequence was disposed while its prefix was brought", { cause: error });
      this.cache.cut(sequence.row, 0);
      this.cache.unsuspend(sequence.row);
      this.cache.refreshSlots(sequence.row);
      return 0;
    }
  }

  /** Brings the sequence back when its turn comes. */
  async #return(resuming: Resuming, sequence: Sequence, signal: AbortSignal | undefined): Promise<void> {
    const all = this.#returning.get(sequence) ?? new Set();
    this.#returning.set(sequence, all.add(resuming));
    try {
      await this.#turn.take(() => resuming.start(signal));
    } finally {
      all.delete(resuming);
    }
  }

  /** Whether nothing of the sequence has to be asked of a keyed tier, which may have lost it. */
  #isInArenas(sequence: Sequence): boolean {
    return this.cache.groups.every(({ pool }, group) => this.#pages(group, sequence.row).every((page) => pool.isResident(page)));
  }

  #pages(group: number, row: number): number[] {
    return [...this.cache.rowPages(group, row)].filter((page) => page !== NONE);
  }
}
