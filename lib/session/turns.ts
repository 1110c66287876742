/** Carries out who goes on and who waits: `queue.ts` decides, on what the sessions hold and need at this moment. */
import { KvasirError } from "../errors.js";
import { type Floor, promisedPages } from "./floor.js";
import { planAdmission, planGrowth, type Running, type Waiting } from "./queue.js";
import type { Request, SessionState } from "./request.js";

type RunningView = Running & { request: Request };
type WaitingView = Waiting & { request: Request };

/** Waiting sequences that the store hears of ahead of their turn. */
const lookAhead = 8;

export interface TurnHooks {
  /** Takes a request out of the decode batch. */
  part(request: Request): void;
  cancel(request: Request, reason: unknown): void;
}

export class Turns {
  readonly #floor: Floor;
  readonly #hooks: TurnHooks;

  constructor(floor: Floor, hooks: TurnHooks) {
    this.#floor = floor;
    this.#hooks = hooks;
  }

  /** Finds pages for the steps of those that decode; `order` is by rank. Returns whether pages came free at once. */
  grow(order: readonly Request[], oldest: number): boolean {
    const { store, residency } = this.#floor;
    const running = this.#running(order);
    const needed = running.reduce((sum, { need }) => sum + need, 0);
    const free = store.freePages() - promisedPages(this.#floor);
    if (needed <= free) {
      residency.topUp(2 * running.length);
      return false;
    }
    const spare = (): SessionState[] => this.#spare(order, undefined);
    const pages = { free, coming: residency.coming, reclaimable: residency.heldBy(spare()) };
    const { victims, lacking } = planGrowth(running, pages, oldest);
    return this.#makeWay(victims, lacking, spare);
  }

  /** Lets waiting requests in; returns whether anything changed that the loop should look at again. */
  admit(order: readonly Request[], now: number, isDeviceIdle: boolean): boolean {
    const { store, residency, options } = this.#floor;
    const waiting = order.filter(({ phase }) => phase === "waiting").map((request) => this.#waitingView(request));
    const first = waiting[0];
    if (first === undefined) return false;
    const running = this.#running(order);
    const steps = running.reduce((sum, { need }) => sum + need, 0);
    const pages = { free: store.freePages() - promisedPages(this.#floor) - steps, coming: residency.coming };
    const reclaimable = ({ request }: WaitingView): { resting: number; waiting: number } => ({
      resting: residency.heldBy(this.#resting()),
      waiting: residency.heldBy(this.#behind(order, request)),
    });
    const plan = planAdmission(waiting, running, pages, reclaimable, {
      slots: options.maxBatch - running.length,
      headroom: Math.ceil(options.watermark * store.devicePages),
      maxBypass: options.maxBypass,
      now,
      agingMs: options.agingMs,
    });
    for (const { request } of plan.bypassed) request.bypassed++;
    for (const { request, need } of plan.admit) this.#letIn(request, need, now);
    if (store.hasTiers) store.lookAhead(waiting.slice(0, lookAhead).map(({ request }) => request.session.sequence));
    const { next } = plan;
    if (next !== undefined && this.#makeWay(plan.victims, plan.lacking, () => this.#spare(order, next.request))) return true;
    const isStill = running.length === 0 && plan.admit.length === 0 && isDeviceIdle;
    if (!isStill || !first.isReady || residency.coming > 0 || residency.transfers > 0) return false;
    this.#refuse(first);
    return true;
  }

  /**
   * Sessions whose pages may be taken: resting ones, the longest-resting first, then waiting ones from behind, for a waiting `request`
   * only those behind it.
   */
  #spare(order: readonly Request[], request: Request | undefined): SessionState[] {
    return [...this.#resting(), ...this.#behind(order, request)];
  }

  #resting(): SessionState[] {
    const resting = [...this.#floor.sessions].filter((session) => session.request === undefined && session.moving === undefined);
    return resting.sort((a, b) => a.restingSince - b.restingSince);
  }

  #behind(order: readonly Request[], request: Request | undefined): SessionState[] {
    const place = request === undefined ? 0 : order.indexOf(request) + 1;
    const behind = order.slice(place).filter(({ phase, session }) => phase === "waiting" && session.moving === undefined);
    return behind.reverse().map(({ session }) => session);
  }

  #makeWay(victims: readonly RunningView[], lacking: number, spare: () => SessionState[]): boolean {
    const { store, residency } = this.#floor;
    const before = store.freePages();
    const comingBefore = residency.coming;
    const missing = (): number => lacking - (store.freePages() - before) - (residency.coming - comingBefore);
    for (const { request } of victims) {
      this.#hooks.part(request);
      residency.giveWay(request, Math.max(0, missing()));
    }
    const hasReclaimed = missing() > 0 && residency.reclaim(missing(), spare);
    return hasReclaimed || store.freePages() > before;
  }

  #letIn(request: Request, need: number, now: number): void {
    request.phase = "loading";
    request.promised = need;
    request.admittedAt ??= now;
    request.computedBefore = request.session.computed;
    void this.#floor.residency.load(request);
  }

  /** Nothing runs, all that may be taken was, and still the first request finds no room. */
  #refuse({ request, need }: WaitingView): void {
    const { store } = this.#floor;
    const reason = new KvasirError(
      "ERR_KVASIR_OUT_OF_PAGES",
      `Need ${need} pages but only ${store.freePages()} of ${store.devicePages} can be freed; other sequences of the cache hold the rest`,
    );
    this.#hooks.cancel(request, reason);
  }

  #running(order: readonly Request[]): RunningView[] {
    const { engine, residency, options } = this.#floor;
    return order
      .filter(({ phase }) => phase !== "waiting")
      .map((request) => {
        const { ticket, priority, arrivedAt, phase, session, preemptions } = request;
        return {
          request,
          ticket,
          priority,
          arrivedAt,
          need: request.takesStep ? engine.cache.pagesToReserve([session.sequence.row], [1]) : 0,
          held: residency.held(session),
          growth: this.#growth(request),
          isGuarded: preemptions > 0 && session.computed - request.computedBefore < options.guardTokens,
          canYield: phase !== "loading",
        };
      });
  }

  #waitingView(request: Request): WaitingView {
    const { ticket, priority, arrivedAt, bypassed, isReady } = request;
    const need = this.#floor.residency.pagesToResume(request);
    const held = this.#floor.residency.held(request.session);
    return { request, ticket, priority, arrivedAt, bypassed, isReady, need, held, growth: this.#growth(request) };
  }

  /** Pages that are kept free for the request's later tokens. */
  #growth({ wish, scheduled }: Request): number {
    const left = Math.max(0, (wish?.maxTokens ?? 0) - scheduled);
    return Math.min(this.#floor.options.growthPages, Math.ceil(left / this.#floor.engine.cache.pageSize));
  }
}
