/**
 * Makes room in the arenas. Device slots are freed by dropping pages that have a copy below, or that nobody refers to, and else by copying
 * them to the host pool first; host slots in the same way, with the keyed tiers below. A page that somebody refers to is never lost: where
 * no tier takes it, it stays and others are looked for.
 */
import type { ArenaMoves } from "./arena_moves.js";
import type { KeyedMoves } from "./keyed_moves.js";
import { MARK_EVICT, NONE, type PagePool } from "./page_pool.js";

export interface EvictionCounters {
  /** Pages that left an arena with a copy below, and that were forgotten altogether. */
  demoted: number;
  dropped: number;
}

/** A page that was picked: marked, so that nobody else picks it. */
interface Held {
  page: number;
  epoch: number;
}

export class Evictor {
  readonly counters: EvictionCounters = { demoted: 0, dropped: 0 };
  readonly #pools: readonly PagePool[];
  readonly #moves: ArenaMoves;
  readonly #keyed: KeyedMoves;
  /** Whether an unreferenced page is worth a place in the keyed tiers. */
  readonly #admits: (group: number, page: number) => boolean;
  /** Whether the host pool's copies of pages on the device are of no use to anybody. */
  readonly #isDuplicateIdle: () => boolean;

  constructor(
    pools: readonly PagePool[],
    moves: ArenaMoves,
    keyed: KeyedMoves,
    admits: (group: number, page: number) => boolean,
    isDuplicateIdle: () => boolean,
  ) {
    this.#pools = pools;
    this.#moves = moves;
    this.#keyed = keyed;
    this.#admits = admits;
    this.#isDuplicateIdle = isDuplicateIdle;
  }

  /** Frees slots of an arena until `want` are free, or nothing more can be freed. Resolves with how many are. */
  async makeRoom(group: number, arena: number, want: number): Promise<number> {
    const pool = this.#pools[group] as PagePool;
    const stuck: Held[] = [];
    this.#moves.dropStale(group);
    try {
      while (pool.freeSlots(arena) < want) {
        const costly = this.#dropCheap(group, arena, want);
        if (pool.freeSlots(arena) >= want) {
          for (const held of costly) pool.unmark(held.page, MARK_EVICT, held.epoch);
          break;
        }
        if (costly.length === 0) {
          if (arena === 1 && this.#dropDuplicate(pool)) continue;
          if (this.#moves.pending + this.#keyed.pending === 0) {
            if (await this.#giveUpBlocked(group, arena)) continue;
            break;
          }
          await Promise.race([this.#moves.next(), this.#keyed.next()]); // what is being copied may be free afterwards
          continue;
        }
        const stay = await this.#moveDown(group, arena, costly);
        stuck.push(...stay);
        // Those that found no place may find one now that others have moved on.
        if (stay.length < costly.length) for (const held of stuck.splice(0)) pool.unmark(held.page, MARK_EVICT, held.epoch);
      }
      return pool.freeSlots(arena);
    } finally {
      for (const { page, epoch } of stuck) pool.unmark(page, MARK_EVICT, epoch);
    }
  }

  /** Frees the slots that these pages have in an arena, as far as nobody runs with them. */
  async vacate(group: number, arena: number, pages: readonly number[]): Promise<void> {
    const pool = this.#pools[group] as PagePool;
    if (pages.some((page) => pool.marks(page) !== 0)) await this.#moves.idle();
    const costly: Held[] = [];
    for (const page of pages) {
      if (pool.useCount(page) > 0 || pool.marks(page) !== 0 || !pool.isValid(page, arena)) continue;
      if (!this.#hasCopyBelow(group, arena, page)) costly.push({ page, epoch: pool.mark(page, MARK_EVICT) });
      else {
        pool.dropSlot(page, arena);
        this.counters.demoted++;
      }
    }
    if (costly.length === 0) return;
    for (const { page, epoch } of await this.#moveDown(group, arena, costly)) pool.unmark(page, MARK_EVICT, epoch);
  }

  /** Copies sealed pages to the keyed tiers, from `first` on, by way of the host pool where there is one. They stay where they are. */
  async writeDown(group: number, pages: readonly number[], first: number): Promise<void> {
    const pool = this.#pools[group] as PagePool;
    await Promise.all([this.#moves.idle(), this.#keyed.idle()]);
    const { arena } = this.#keyed;
    const isFree = (page: number): boolean => pool.isSealed(page) && pool.marks(page) === 0;
    const left = pages.filter((page) => isFree(page) && !this.#keyed.holds(group, page, first));
    while (left.length > 0) {
      const lacking = left.filter((page) => isFree(page) && !pool.isValid(page, arena));
      if (lacking.length > pool.freeSlots(arena))
        await this.makeRoom(group, arena, Math.min(lacking.length, pool.numSlots(arena)));
      const copied = lacking.filter((page) => {
        if (!isFree(page) || !pool.isValid(page, 0) || pool.isValid(page, arena)) return false;
        if (pool.slot(page, arena) === NONE && pool.freeSlots(arena) === 0) return false;
        if (pool.slot(page, arena) === NONE) pool.takeSlot(page, arena);
        return true;
      });
      if (copied.length > 0) await this.#moves.out(group, copied);
      const ready = left.filter((page) => isFree(page) && pool.isValid(page, arena));
      if (ready.length === 0) return;
      await this.#keyed.store(group, ready, first);
      left.splice(0, left.length, ...left.filter((page) => !ready.includes(page)));
    }
  }

  /** Drops victims that need no copy; returns as many others, marked so that they leave the order, as the rest of the need. */
  #dropCheap(group: number, arena: number, want: number): Held[] {
    const pool = this.#pools[group] as PagePool;
    const hasBelow = (arena === 0 && pool.numArenas > 1) || this.#keyed.drivers.length > 0;
    const costly: Held[] = [];
    while (pool.freeSlots(arena) + costly.length < want) {
      const page = pool.victim(arena, hasBelow);
      if (page === NONE) break;
      if (this.#hasCopyBelow(group, arena, page)) {
        pool.dropSlot(page, arena);
        this.counters.demoted++;
      } else if (pool.refCount(page) === 0 && !this.#isWorthMoving(group, arena, page)) {
        pool.dropSlot(page, arena);
        this.counters.dropped++;
      } else costly.push({ page, epoch: pool.mark(page, MARK_EVICT) });
    }
    return costly;
  }

  /** Lets a page go that only pages follow which are out of reach; false where there is none. */
  async #giveUpBlocked(group: number, arena: number): Promise<boolean> {
    const pool = this.#pools[group] as PagePool;
    const page = pool.blockedVictim(arena);
    if (page === NONE) return false;
    if (this.#isWorthMoving(group, arena, page))
      await this.#moveDown(group, arena, [{ page, epoch: pool.mark(page, MARK_EVICT) }]);
    else {
      pool.dropSlot(page, arena);
      this.counters.dropped++;
    }
    return true;
  }

  #hasCopyBelow(group: number, arena: number, page: number): boolean {
    const pool = this.#pools[group] as PagePool;
    if (arena === 0 && pool.numArenas > 1 && pool.isValid(page, 1)) return true;
    return this.#keyed.holds(group, page);
  }

  #isWorthMoving(group: number, arena: number, page: number): boolean {
    const pool = this.#pools[group] as PagePool;
    if (arena === 0 && pool.numArenas > 1) return true;
    return this.#keyed.drivers.length > 0 && this.#admits(group, page);
  }

  #dropDuplicate(pool: PagePool): boolean {
    const page = this.#isDuplicateIdle() ? pool.duplicate() : NONE;
    if (page === NONE) return false;
    pool.dropSlot(page, 1);
    return true;
  }

  /** Copies pages one level down, as many at a time as fit there, and drops them here; returns those that stay, still marked. */
  async #moveDown(group: number, arena: number, held: readonly Held[]): Promise<Held[]> {
    const pool = this.#pools[group] as PagePool;
    const most = arena === 0 && pool.numArenas > 1 ? pool.numSlots(1) : held.length;
    const stay: Held[] = [];
    for (let at = 0; at < held.length; at += most) {
      stay.push(...(await this.#moveSomeDown(group, arena, held.slice(at, at + most))));
    }
    return stay;
  }

  async #moveSomeDown(group: number, arena: number, held: readonly Held[]): Promise<Held[]> {
    const pool = this.#pools[group] as PagePool;
    const toHost = arena === 0 && pool.numArenas > 1;
    const isBelow = toHost ? await this.#toHost(group, held) : await this.#toKeyed(group, held);
    const stay: Held[] = [];
    held.forEach((entry, i) => {
      const { page, epoch } = entry;
      if (!isBelow[i] && !pool.isGone(page) && pool.refCount(page) > 0) {
        stay.push(entry);
        return;
      }
      pool.unmark(page, MARK_EVICT, epoch);
      if (pool.useCount(page) > 0 || pool.marks(page) !== 0) return; // wanted again meanwhile
      if (pool.slot(page, arena) === NONE) return; // let go meanwhile
      pool.dropSlot(page, arena);
      if (isBelow[i]) this.counters.demoted++;
      else this.counters.dropped++;
    });
    return stay;
  }

  async #toHost(group: number, held: readonly { page: number }[]): Promise<boolean[]> {
    const pool = this.#pools[group] as PagePool;
    const lacking = held.filter(({ page }) => pool.slot(page, 1) === NONE).length;
    if (lacking > pool.freeSlots(1)) await this.makeRoom(group, 1, lacking);
    const pages: number[] = [];
    for (const { page } of held) {
      if (pool.isGone(page)) continue; // its last sequence went while room was made
      if (pool.slot(page, 1) === NONE) {
        if (pool.freeSlots(1) === 0) continue;
        pool.takeSlot(page, 1);
      }
      pages.push(page);
    }
    const outcome = pages.length === 0 ? "done" : await this.#moves.out(group, pages);
    const moved = new Set(outcome === "done" ? pages : []);
    return held.map(({ page }) => moved.has(page) && pool.isValid(page, 1));
  }

  async #toKeyed(group: number, held: readonly { page: number }[]): Promise<boolean[]> {
    if (this.#keyed.drivers.length === 0) return held.map(() => false);
    return this.#keyed.store(
      group,
      held.map(({ page }) => page),
    );
  }
}
