/**
 * Bringing a suspended sequence back to the device: pages that only keyed tiers hold are loaded into the lowest arena, then all that the
 * device lacks is copied up in bands of layers. What cannot be had ends the sequence there: it is cut to the tokens before.
 */
import { KvasirError } from "../errors.js";
import type { ArenaMoves } from "./arena_moves.js";
import type { Evictor } from "./evictor.js";
import type { KeyedMoves } from "./keyed_moves.js";
import type { KvCache } from "./kv_cache.js";
import type { Move } from "./page_mover.js";
import { MARK_LOAD, NONE } from "./page_pool.js";
import { Arrival } from "./rows.js";
import type { Sequence } from "./sequence.js";

export interface Resumed {
  /** Tokens that the sequence still has: fewer than before where a page was lost. */
  tokens: number;
  /** Bytes that were copied to the device. */
  bytes: number;
}

/** What a resume goes through; `start` resolves when everything is enqueued. */
export class Resuming {
  readonly #cache: KvCache;
  readonly #moves: ArenaMoves;
  readonly #keyed: KeyedMoves;
  readonly #evictor: Evictor;
  readonly #sequence: Sequence;
  /** Copies to the device, ours and those of others that share pages with us. */
  readonly #coming: Set<Move> = new Set();
  readonly #over: Promise<unknown>[] = [];
  /** Told by ourselves; and what the sequence waits for, of earlier resumptions too. */
  #own: Arrival | undefined;
  #arrival: Arrival | undefined;
  /** Suspended by ourselves for a while, or by somebody who does not want it back any more. */
  #isResting = false;
  #isCancelled = false;
  #bytes = 0;
  /** Tokens by where their pages were at the start: device pool, host pool, keyed tiers; the first group's. */
  readonly found: number[];

  constructor(cache: KvCache, moves: ArenaMoves, keyed: KeyedMoves, evictor: Evictor, sequence: Sequence) {
    this.#cache = cache;
    this.#moves = moves;
    this.#keyed = keyed;
    this.#evictor = evictor;
    this.#sequence = sequence;
    this.found = [0, 0, ...keyed.drivers.map(() => 0)];
  }

  /**
   * Enqueues all copies. Afterwards the sequence runs again; work that reads its pages is held by `hold`. A sequence that runs already has
   * only its pages on their way joined.
   * @throws ERR_KVASIR_OUT_OF_PAGES, and then the sequence is suspended as before; the signal's reason likewise; ERR_KVASIR_DISPOSED
   */
  async start(signal?: AbortSignal): Promise<void> {
    const { row } = this.#sequence;
    if (this.#cache.isRunning(row)) {
      this.#joinAll();
      this.#arrival = this.#cache.arrival(row);
      return;
    }
    this.#cache.unsuspend(row);
    this.#countFound();
    try {
      const groups = this.#cache.groups.map((_, group) => group);
      for (const group of groups) await this.#makeRoom(group, signal);
      // Another's copy that was to bring a page of ours may fail before we have joined it: then it is our turn to bring it.
      do {
        for (const group of groups) await this.#load(group, signal);
        this.#check(signal);
        this.#cutLost();
        for (const group of groups) this.#forgetPrivate(group);
        for (const group of groups) await this.#lift(group, signal);
        this.#check(signal);
        this.#joinAll();
      } while (!this.#isComplete());
    } catch (error) {
      if (!this.#sequence.disposed) this.#cache.suspend(row);
      throw error;
    }
    this.#arrival = this.#cache.arrival(row);
    if (this.#coming.size > 0) {
      this.#own = new Arrival(this.#arrival);
      this.#arrival = this.#own;
    }
    this.#cache.refreshSlots(row, this.#own);
  }

  /** The sequence is not wanted back any more: `start` throws at its next step. */
  cancel(): void {
    this.#isCancelled = true;
  }

  /** Holds the compute stream's coming work until the pages are there, as far as `layer` needs them. */
  hold(layer?: number): void {
    for (const move of this.#coming) move.hold(layer);
  }

  /** Resolves when all copies are over. @throws ERR_KVASIR_DEVICE_LOST where one failed */
  async ready(): Promise<Resumed> {
    const outcomes = await Promise.all([...this.#coming].map(({ done }) => done));
    const bad = outcomes.find((outcome) => outcome !== "done");
    this.#own?.tell(bad === undefined);
    // A sequence that went on with what did not come is lost, however its pages come now; so are its forks.
    const hasCome = (await this.#arrival?.over) ?? true;
    if (bad !== undefined || !hasCome) {
      const why = bad === undefined ? "an earlier copy failed" : `the copy ended as ${bad}`;
      throw new KvasirError("ERR_KVASIR_DEVICE_LOST", `Pages did not come to the device: ${why}; start the sequence anew`);
    }
    await Promise.all(this.#over);
    return { tokens: this.#sequence.length, bytes: this.#bytes };
  }

  #countFound(): void {
    const { pool } = this.#group(0);
    for (const page of this.#pages(0)) {
      const arena = pool.isValid(page, 0) ? 0 : pool.numArenas > 1 && pool.isValid(page, 1) ? 1 : undefined;
      const place = arena ?? 2 + this.#keyed.firstHolder(0, page);
      if (place >= 2 && this.#keyed.firstHolder(0, page) < 0) continue;
      this.found[place] = (this.found[place] as number) + this.#cache.pageSize;
    }
  }

  /**
   * Frees the device pages that the sequence lacks, before it fills the host pool with its own. Where its pages fill that already, the
   * others cannot leave the device: then its own go down to the keyed tiers first.
   */
  async #makeRoom(group: number, signal?: AbortSignal): Promise<void> {
    const { pool } = this.#group(group);
    const need = (): number => {
      const lacks = (page: number): boolean =>
        pool.slot(page, 0) === NONE && (pool.isResident(page) || this.#keyed.holds(group, page));
      return this.#pages(group).reduce((sum, page) => sum + (lacks(page) ? 1 : 0), 0);
    };
    let room = await this.#evictor.makeRoom(group, 0, need());
    this.#check(signal);
    const lacking = need() - room;
    if (lacking > 0 && pool.numArenas > 1 && pool.evictable(0) >= lacking) {
      const { row } = this.#sequence;
      this.#isResting = true;
      this.#cache.suspend(row);
      await this.#evictor.makeRoom(group, 1, Math.min(pool.numSlots(1), pool.freeSlots(1) + lacking));
      this.#check(signal);
      this.#isResting = false;
      this.#cache.unsuspend(row);
      room = await this.#evictor.makeRoom(group, 0, need());
      this.#check(signal);
    }
    if (room < need()) throw outOfPages(need(), room, pool.numSlots(0));
  }

  /** Pages that lie in no arena come from keyed tiers, as many at a time as there is room for. */
  async #load(group: number, signal?: AbortSignal): Promise<void> {
    const { pool } = this.#group(group);
    const arena = this.#keyed.arena;
    const absent = (): number[] => this.#pages(group).filter((page) => !pool.isResident(page));
    const wanted = (): number[] => absent().filter((page) => this.#keyed.holds(group, page));
    for (;;) {
      this.#check(signal);
      if (absent().some((page) => (pool.marks(page) & MARK_LOAD) !== 0)) {
        await this.#keyed.idle(); // another sequence is loading it
        continue;
      }
      const need = wanted().length;
      if (need === 0) return;
      // Its own pages in the host pool make way for each other on their way up.
      if (arena === 1 && pool.freeSlots(1) < need) await this.#lift(group, signal);
      const room = await this.#evictor.makeRoom(group, arena, need);
      this.#check(signal);
      if (room === 0) throw outOfPages(need, 0, pool.numSlots(arena));
      // Others may have taken some of the room since it was made.
      const some = wanted()
        .filter((page) => pool.marks(page) === 0)
        .slice(0, pool.freeSlots(arena));
      for (const page of some) if (pool.slot(page, arena) === NONE) pool.takeSlot(page, arena);
      await this.#keyed.load(group, some);
    }
  }

  /** Copies of unsealed pages in keyed tiers are stale as soon as the sequence goes on. */
  #forgetPrivate(group: number): void {
    const { pool } = this.#group(group);
    for (const page of this.#pages(group)) if (!pool.isSealed(page)) this.#keyed.forgetPrivate(group, page);
  }

  /** Cuts the sequence before the first page that is nowhere. */
  #cutLost(): void {
    const { row } = this.#sequence;
    let tokens = this.#sequence.length;
    this.#cache.groups.forEach(({ pool }, group) => {
      const pages = this.#cache.rowPages(group, row);
      const lost = pages.findIndex((page) => page !== NONE && !pool.isResident(page));
      if (lost >= 0) tokens = Math.min(tokens, lost * this.#cache.pageSize);
    });
    if (tokens < this.#sequence.length) this.#cache.cutLost(row, tokens);
  }

  /** Copies what is only in the host pool to the device. */
  async #lift(group: number, signal?: AbortSignal): Promise<void> {
    const { pool } = this.#group(group);
    if (pool.numArenas === 1) return;
    const absent = (): number[] => this.#pages(group).filter((page) => !pool.isValid(page, 0) && pool.isValid(page, 1));
    // A page whose copy to the device failed has its slot there.
    const need = (): number => absent().reduce((sum, page) => sum + (pool.slot(page, 0) === NONE ? 1 : 0), 0);
    while (pool.freeSlots(0) < need()) {
      const room = await this.#evictor.makeRoom(group, 0, need());
      this.#check(signal);
      if (room < need()) throw outOfPages(need(), room, pool.numSlots(0));
    }
    const pages = absent();
    if (pages.length === 0) return;
    for (const page of pages) if (pool.slot(page, 0) === NONE) pool.takeSlot(page, 0);
    const { move, over } = this.#moves.in(group, pages);
    this.#coming.add(move);
    this.#over.push(over);
    this.#bytes += move.bytes;
  }

  /** Whether the device has all pages, or will have them. */
  #isComplete(): boolean {
    return this.#cache.groups.every(({ pool }, group) => this.#pages(group).every((page) => pool.isValid(page, 0)));
  }

  /** Copies that are under way for others bring our pages too. */
  #joinAll(): void {
    for (const group of this.#cache.groups.keys()) {
      for (const page of this.#pages(group)) {
        const move = this.#moves.incoming(group, page);
        if (move !== undefined) this.#coming.add(move);
      }
    }
  }

  #pages(group: number): number[] {
    return [...this.#cache.rowPages(group, this.#sequence.row)].filter((page) => page !== NONE);
  }

  #check(signal?: AbortSignal): void {
    signal?.throwIfAborted();
    const isDisposed = this.#sequence.disposed;
    const isSuspended = this.#isCancelled || (!isDisposed && !this.#isResting && this.#cache.isSuspended(this.#sequence.row));
    if (!isDisposed && !isSuspended) return;
    const what = isDisposed ? "disposed" : "suspended";
    throw new KvasirError("ERR_KVASIR_DISPOSED", `Sequence was ${what} while it was brought back`);
  }

  #group(group: number): KvCache["groups"][number] {
    return this.#cache.groups[group] as KvCache["groups"][number];
  }
}

function outOfPages(need: number, free: number, slots: number): KvasirError {
  return new KvasirError(
    "ERR_KVASIR_OUT_OF_PAGES",
    `Need ${need} ${need === 1 ? "page" : "pages"} but only ${free} of ${slots} can be freed; suspend or dispose a sequence, or raise the pool`,
  );
}
