/**
 * The scheduler's loop. Each iteration enqueues at most one pass of tokens to be read and one decode step of everyone who decodes, and
 * two iterations are under way at a time, so the device runs ahead of what the host has read. Between them requests are let in, give way
 * and end. While nothing can run the loop sleeps, and without requests there is none.
 */
import type { ContextStore } from "../cache/context_store.js";
import { KvasirError } from "../errors.js";
import type { FinishReason } from "./answer.js";
import { Batcher, type Iteration } from "./batcher.js";
import { CostModel } from "./cost.js";
import type { Engine } from "./engine.js";
import type { Floor, LoopOptions } from "./floor.js";
import { byRank } from "./queue.js";
import type { Request, SessionState } from "./request.js";
import { Residency } from "./residency.js";
import { emptyTally } from "./tally.js";
import { Turns } from "./turns.js";

/** Iterations under way at most. */
const depth = 2;

export class Loop {
  readonly sessions: Set<SessionState> = new Set();
  readonly floor: Floor;
  readonly #unfinished: Set<Request> = new Set();
  readonly #turns: Turns;
  readonly #batcher: Batcher;
  readonly #flight: Iteration[] = [];
  #settledAt = Number.NEGATIVE_INFINITY;
  #running: Promise<void> | undefined;
  #hasNews = false;
  #sleeper: (() => void) | undefined;
  #error: { reason: unknown } | undefined;

  constructor(engine: Engine, store: ContextStore, options: LoopOptions) {
    const cost = new CostModel(options.rates);
    const tally = emptyTally();
    const residency = new Residency({
      cache: engine.cache,
      store,
      cost,
      tally,
      clock: options.clock,
      isIdle: () => this.#flight.length === 0,
      wake: () => this.wake(),
      cancel: (request, reason) => this.cancel(request, reason),
      fail: (error) => this.#fail(error),
    });
    this.floor = { engine, store, options, cost, tally, residency, sessions: this.sessions, unfinished: this.#unfinished };
    this.#batcher = new Batcher(this.floor);
    this.#turns = new Turns(this.floor, {
      part: (request) => this.#batcher.part(request),
      cancel: (request, reason) => this.cancel(request, reason),
    });
  }

  /** @throws ERR_KVASIR_OUT_OF_PAGES for a request that the device cannot hold; what broke the loop earlier */
  submit(request: Request): void {
    if (this.#error !== undefined) throw this.#error.reason;
    const { engine, store } = this.floor;
    const need = Math.ceil(request.mostTokens / engine.cache.pageSize);
    if (need > store.devicePages) {
      throw new KvasirError(
        "ERR_KVASIR_OUT_OF_PAGES",
        `Need ${need} pages for ${request.mostTokens} tokens but the device holds ${store.devicePages}; lower maxTokens, or raise cacheTokens`,
      );
    }
    this.#unfinished.add(request);
    request.session.request = request;
    this.wake();
    this.#running ??= this.#run();
  }

  /** Ends a request with an error; its session goes back to where it was before. */
  cancel(request: Request, reason: unknown): void {
    this.#end(request, reason, () => {
      request.session.context.truncate(request.mark);
      this.#release(request, true);
      request.sink.onError(reason);
    });
  }

  /** Ends an answer after the first `kept` of its tokens. */
  leave(request: Request, kept: number): void {
    this.#end(request, undefined, () => {
      this.keep(request, kept);
      this.#finish(request, "left");
    });
  }

  /** Takes the session back to the first `kept` tokens of its latest answer. */
  keep(request: Request, kept: number): void {
    const length = request.mark.length + request.promptTokens + kept;
    const { context } = request.session;
    if (length < context.length) context.truncate({ length, settled: length - Math.min(kept, 1) });
    this.floor.residency.trim(request.session);
  }

  /** Looks again: a session was closed, pages came free. */
  wake(): void {
    this.#hasNews = true;
    this.#sleeper?.();
  }

  /** Requests on the device, and requests that wait. */
  counts(): { running: number; waiting: number } {
    const waiting = [...this.#unfinished].filter(({ phase }) => phase === "waiting").length;
    return { running: this.#unfinished.size - waiting, waiting };
  }

  /** Resolves when no request is left. */
  async idle(): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    while (this.#unfinished.size > 0 || this.#flight.length > 0) {
      this.#hasNews = false;
      try {
        const hasStarted = this.#flight.length < depth && this.#iterate();
        if (this.#flight.length >= depth || (!hasStarted && this.#flight.length > 0)) await this.#settle();
        else if (!hasStarted) await this.#sleep();
      } catch (error) {
        this.#fail(error);
      }
    }
    this.#running = undefined;
  }

  async #sleep(): Promise<void> {
    const { options, residency, tally } = this.floor;
    const begun = options.clock();
    const isCopying = residency.transfers > 0;
    if (!this.#hasNews) {
      await new Promise<void>((resolve) => {
        this.#sleeper = resolve;
      });
      this.#sleeper = undefined;
    }
    // Whatever woke it, others get their turn before it looks again.
    await new Promise(setImmediate);
    if (isCopying) tally.copyWaitSeconds += (options.clock() - begun) / 1000;
  }

  /** Enqueues what can run now; returns whether anything did. */
  #iterate(): boolean {
    const { agingMs, clock } = this.floor.options;
    const now = clock();
    for (const request of this.#unfinished) if (isRead(request)) this.#finish(request, "stop");
    const order = [...this.#unfinished].sort(byRank(now, agingMs));
    const oldest = this.#unfinished.values().next().value?.ticket ?? -1;
    if (this.#turns.grow(order, oldest)) this.#hasNews = true;
    if (this.#turns.admit(order, now, this.#flight.length === 0)) this.#hasNews = true;
    const iteration = this.#batcher.enqueue(
      order.filter(({ phase }) => phase !== "done"),
      oldest,
      now,
    );
    if (iteration === undefined) return false;
    this.#flight.push(iteration);
    return true;
  }

  /** Waits for the earliest iteration and hands its tokens out. */
  async #settle(): Promise<void> {
    const { clock } = this.floor.options;
    const { tally, cost } = this.floor;
    const iteration = this.#flight[0] as Iteration;
    const begun = Math.max(iteration.begunAt, this.#settledAt);
    const { pass, step, firsts, ends, members } = iteration;
    if (pass !== undefined) {
      const tokens = await pass.tokens;
      const seconds = (clock() - begun) / 1000;
      cost.prefill.add(iteration.readTokens, seconds);
      tally.passes++;
      tally.readTokens += iteration.readTokens;
      tally.recomputedTokens += iteration.recomputedTokens;
      tally.recomputeSeconds += (seconds * iteration.recomputedTokens) / iteration.readTokens;
      for (const request of ends) this.#hasEnded(request);
      firsts.forEach((request, i) => {
        this.#accept(request, tokens[i] as number);
      });
    }
    if (step !== undefined) {
      const tokens = await step;
      tally.steps++;
      members.forEach((request, i) => {
        this.#accept(request, tokens[i] as number);
      });
    }
    this.#settledAt = clock();
    tally.busySeconds += (this.#settledAt - begun) / 1000;
    this.#flight.shift();
  }

  #hasEnded(request: Request): void {
    request.inFlight--;
    if (request.phase !== "done") this.#finish(request, "stop");
  }

  /** Takes a token that the device chose. */
  #accept(request: Request, token: number): void {
    request.inFlight--;
    const { wish, session, phase } = request;
    if (wish === undefined || phase === "done") return;
    if (wish.stops.has(token)) {
      this.#finish(request, "stop");
      return;
    }
    session.context.push(token);
    request.made++;
    request.firstTokenAt ??= this.floor.options.clock();
    this.floor.tally.madeTokens++;
    this.#batcher.note(session);
    wish.onToken(token);
    if (request.made === wish.maxTokens) this.#finish(request, "length");
  }

  /** Runs `action`, which ends the request, at once, or as soon as its load has settled. */
  #end(request: Request, reason: unknown, action: () => void): void {
    if (request.phase === "done" || request.ending !== undefined) return;
    if (request.phase !== "loading") {
      action();
      return;
    }
    request.ending = action;
    request.loading.abort(reason);
  }

  #finish(request: Request, finish: FinishReason): void {
    this.#release(request, false);
    request.sink.onEnd(finish, request.counters(this.floor.options.clock()));
  }

  /** Takes a request off the device and out of the queue; its session rests. */
  #release(request: Request, hasFailed: boolean): void {
    const { session } = request;
    this.#batcher.part(request);
    this.#unfinished.delete(request);
    session.request = undefined;
    session.restingSince = this.floor.options.clock();
    session.computed = Math.min(session.computed, session.context.settled);
    this.#batcher.note(session);
    this.floor.residency.rest(session);
    this.floor.tally.requests++;
    request.setDone(hasFailed);
    this.wake();
  }

  /** The device, or the code, failed: nobody can go on. */
  #fail(error: unknown): void {
    this.#error ??= { reason: error };
    this.#flight.length = 0;
    for (const request of [...this.#unfinished]) {
      this.#batcher.part(request);
      this.#unfinished.delete(request);
      request.session.request = undefined;
      request.setDone(true);
      request.sink.onError(error);
    }
    this.wake();
  }
}

/** A prefill with nothing left to read: its tokens were found. */
function isRead({ wish, phase, inFlight }: Request): boolean {
  return wish === undefined && phase === "decoding" && inFlight === 0;
}
