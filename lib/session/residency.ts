/** Moves sessions onto the device and off it: loads, suspends, drops, and keeps count of pages that are promised or on their way. */
import type { ContextStore, Resumption } from "../cache/context_store.js";
import type { KvCache } from "../cache/kv_cache.js";
import { KvasirError } from "../errors.js";
import type { CostModel } from "./cost.js";
import type { Request, SessionState } from "./request.js";
import type { Tally } from "./tally.js";

export interface ResidencyParts {
  cache: KvCache;
  store: ContextStore;
  cost: CostModel;
  tally: Tally;
  clock: () => number;
  /** Whether nothing runs on the device. */
  isIdle(): boolean;
  /** Called when something changed that the loop waits for. */
  wake(): void;
  /** Ends a request with an error. */
  cancel(request: Request, reason: unknown): void;
  /** Called with an error that no request caused. */
  fail(error: unknown): void;
}

export class Residency {
  /** Pages that copies or evictions under way will free. */
  coming = 0;
  /** Copies under way for which someone may wait. */
  transfers = 0;
  readonly #parts: ResidencyParts;
  /** Whether the store found nothing more to free, and nothing has changed since. */
  #isExhausted = false;

  constructor(parts: ResidencyParts) {
    this.#parts = parts;
  }

  /** Pages that the request takes to have all its tokens on the device, and one more. */
  pagesToResume({ session, unread }: Request): number {
    const { cache, store } = this.#parts;
    const fresh = cache.pagesToReserve([session.sequence.row], [Math.max(0, unread) + 1]);
    return store.missingPages(session.sequence) + fresh;
  }

  /** Device pages of the session. */
  held({ sequence }: SessionState): number {
    const { cache, store } = this.#parts;
    const entries = Math.min(...cache.groups.map(({ table }) => table.rowLength(sequence.row)));
    return Math.max(0, entries - store.missingPages(sequence));
  }

  /** Device pages of sessions that do not run. */
  heldBy(sessions: readonly SessionState[]): number {
    return sessions.reduce((sum, session) => sum + this.held(session), 0);
  }

  /**
   * Frees `pages` pages of sessions that do not run, those that come first first; returns whether anything changed at once. A store with
   * tiers moves pages down as it sees fit; what it cannot move is dropped.
   */
  reclaim(pages: number, sessions: () => readonly SessionState[]): boolean {
    const { store, wake, fail } = this.#parts;
    if (!store.hasTiers) return this.drop(pages, sessions());
    if (this.#isExhausted) return false;
    const target = store.freePages() + pages;
    this.coming += pages;
    this.transfers++;
    store
      .makeRoom(target)
      .then((free) => {
        this.#isExhausted = free < target && !this.drop(target - free, sessions());
      })
      .catch(fail)
      .finally(() => {
        this.coming -= pages;
        this.transfers--;
        wake();
      });
    return false;
  }

  /** Keeps some pages ready for the next steps, where that costs no copy. */
  topUp(pages: number): void {
    const { store, wake, fail } = this.#parts;
    if (store.freePages() >= pages || store.availablePages() <= store.freePages()) return;
    store.makeRoom(Math.min(pages, store.availablePages())).then(wake, fail);
  }

  /** Drops the last pages of the sessions, one session after another, until `pages` came free; returns whether any was dropped. */
  drop(pages: number, sessions: readonly SessionState[]): boolean {
    const { store, tally } = this.#parts;
    const target = store.freePages() + pages;
    let hasDropped = false;
    for (const session of sessions) {
      // Shared pages come free with their last owner only, so a session may have to give more than is missing.
      while (store.freePages() < target && session.sequence.length > 0) {
        const before = store.freePages();
        this.#shorten(session, target - before);
        hasDropped = true;
        tally.droppedPages += store.freePages() - before;
      }
    }
    return hasDropped;
  }

  /** Takes a running request's session off the device: by a copy, which takes time, or later, when its pages are wanted. */
  giveWay(request: Request, pages: number): void {
    const { store, cost, tally, clock, wake, fail } = this.#parts;
    const { session } = request;
    const free = store.freePages();
    this.#cut(session, session.sequence.length);
    const missing = pages - (store.freePages() - free);
    const held = this.held(session);
    request.phase = "waiting";
    request.preemptions++;
    tally.mostPreemptions = Math.max(tally.mostPreemptions, request.preemptions);
    store.suspend(session.sequence);
    session.isSuspended = true;
    this.#isExhausted = false;
    if (!store.hasTiers || this.#cheaper(session) === "recompute") {
      tally.recomputePreemptions++;
      this.drop(Math.min(missing, held), [session]);
      return;
    }
    tally.swapPreemptions++;
    this.coming += held;
    this.transfers++;
    const begun = clock();
    session.moving = store
      .swapOut(session.sequence)
      .then(({ bytes }) => {
        tally.bytesOut += bytes;
        cost.out.add(bytes, (clock() - begun) / 1000);
      })
      .catch(fail)
      .finally(() => {
        this.#isExhausted = false;
        session.moving = undefined;
        this.coming -= held;
        this.transfers--;
        wake();
      });
  }

  /**
   * Brings the session's pages in and reserves room for what is to be read. The request then is "reading", or "decoding" where nothing is
   * left to read; without room it is "waiting" again.
   */
  async load(request: Request): Promise<void> {
    const { wake } = this.#parts;
    try {
      await this.#fill(request);
      if (request.ending !== undefined || request.phase !== "loading") return;
      this.#reserve(request);
      request.phase = request.unread > 0 ? "reading" : "decoding";
    } catch (error) {
      this.#loadFailed(request, error);
    } finally {
      request.promised = 0;
      this.#isExhausted = false;
      this.#runEnding(request);
      wake();
    }
  }

  /** What was put off until the load had settled. */
  #runEnding(request: Request): void {
    const { ending } = request;
    if (ending === undefined || request.phase === "done") return;
    request.ending = undefined;
    request.phase = "waiting";
    ending();
  }

  #loadFailed(request: Request, error: unknown): void {
    if (request.ending !== undefined || request.phase !== "loading") return;
    if (error instanceof KvasirError && error.code === "ERR_KVASIR_OUT_OF_PAGES") {
      request.phase = "waiting";
      this.rest(request.session);
      this.#pause(request.session);
      return;
    }
    request.ending = () => this.#parts.cancel(request, error);
  }

  /** Keeps a session whose pages found no room, against what was counted, from trying again at once. */
  #pause(session: SessionState): void {
    session.moving = new Promise<void>((resolve) => setTimeout(resolve, 1)).then(() => {
      session.moving = undefined;
      this.#parts.wake();
    });
  }

  /** Brings in what is to be found of the session's pages. */
  async #fill(request: Request): Promise<void> {
    const { store } = this.#parts;
    const { session } = request;
    const { sequence, context } = session;
    const { signal } = request.loading;
    const target = context.settled - (request.wantsFirst ? 1 : 0);
    session.isSuspended = false;
    request.waitLayer = undefined;
    if (sequence.length === 0) {
      this.transfers++;
      const adopted = store.adopt(sequence, context.slice(0, target), { signal });
      session.noted = await adopted.finally(() => this.transfers--);
    } else await this.#resume(request, store.resume(sequence, { signal }));
    if (request.isFirstLoad) request.cachedTokens = Math.min(sequence.length, request.mark.settled);
    request.isFirstLoad = false;
    if (request.ending === undefined) this.#cut(session, Math.min(sequence.length, target));
  }

  /** Waits for the copy, or, where nothing else runs that it would hold up, only until a pass can start under it. */
  async #resume(request: Request, { ready, placed, waitLayer }: Resumption): Promise<void> {
    const { cost, tally, clock, isIdle, fail } = this.#parts;
    const begun = clock();
    this.transfers++;
    const hasCome = ({ bytes }: { bytes: number }): void => {
      tally.bytesIn += bytes;
      request.bytesIn += bytes;
      cost.in.add(bytes, (clock() - begun) / 1000);
    };
    const hasNot = (error: unknown): void => {
      request.session.isSuspended = true;
      throw error;
    };
    const copied = ready.then(hasCome, hasNot).finally(() => this.transfers--);
    if (placed === undefined || request.unread <= 0 || !isIdle()) return copied;
    copied.catch((error: unknown) => {
      if (request.waitLayer === waitLayer) fail(error);
    });
    await Promise.race([placed, copied]);
    request.waitLayer = waitLayer;
  }

  #reserve({ session, unread }: Request): void {
    this.#parts.cache.reserve([session.sequence.row], [unread]);
  }

  /** Drops the session's last `pages` pages. */
  #shorten(session: SessionState, pages: number): void {
    const { cache } = this.#parts;
    const { sequence, context } = session;
    const entries = Math.ceil(sequence.length / cache.pageSize);
    const length = Math.max(0, entries - Math.max(1, pages)) * cache.pageSize;
    this.#cut(session, Math.min(length, context.settled));
  }

  /** Truncates the session's pages; reserved ones go too. */
  #cut(session: SessionState, length: number): void {
    const { sequence } = session;
    try {
      sequence.truncate(length);
    } catch (error) {
      // Pages that a window needs there are gone: from the start, then.
      if (!(error instanceof KvasirError) || error.code !== "ERR_KVASIR_INVALID_ARGUMENT") throw error;
      sequence.truncate(0);
    }
    session.noted = Math.min(session.noted, sequence.length);
  }

  /** The session does not run for now. */
  rest(session: SessionState): void {
    this.#isExhausted = false;
    this.trim(session);
    if (!session.isSuspended) this.#parts.store.suspend(session.sequence);
    session.isSuspended = true;
  }

  /** Forgets what the session's pages hold beyond its settled tokens. */
  trim(session: SessionState): void {
    this.#cut(session, Math.min(session.sequence.length, session.context.settled));
  }

  #cheaper(session: SessionState): "swap" | "recompute" {
    const { cache, store, cost } = this.#parts;
    const { sequence } = session;
    const bytes = cache.groups.reduce((sum, { table, format }) => sum + table.rowLength(sequence.row) * format.pageBytes, 0);
    return cost.cheaper({ dirtyBytes: store.dirtyBytes(sequence), bytes, tokens: sequence.length });
  }
}
