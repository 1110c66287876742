/** Puts an iteration together: a pass over tokens that are to be read, and a step of everyone who decodes. */
import type { Pass, Piece } from "./engine.js";
import type { Stream } from "../stream.js";
import { type Floor, promisedPages } from "./floor.js";
import type { Request, SessionState } from "./request.js";

/** What is under way on the device: a pass, a step, or both. */
export interface Iteration {
  /** Milliseconds on the scheduler's clock. */
  begunAt: number;
  pass: Pass | undefined;
  readTokens: number;
  recomputedTokens: number;
  /** Requests for which the pass chooses a first token, in its order. */
  firsts: Request[];
  /** Prefills that end with the pass. */
  ends: Request[];
  step: Promise<ArrayLike<number>> | undefined;
  /** Requests of the step's tokens. */
  members: Request[];
}

export class Batcher {
  readonly #floor: Floor;
  readonly #members: Map<object, Request> = new Map();

  constructor(floor: Floor) {
    this.#floor = floor;
  }

  /** Enqueues what can run; `order` is by rank. Undefined where nothing can. */
  enqueue(order: readonly Request[], oldest: number, now: number): Iteration | undefined {
    const iteration: Iteration = {
      begunAt: now,
      pass: undefined,
      readTokens: 0,
      recomputedTokens: 0,
      firsts: [],
      ends: [],
      step: undefined,
      members: [],
    };
    this.#read(order, iteration);
    const first = order.filter(({ ticket }) => ticket === oldest);
    this.#step([...first, ...order.filter(({ ticket }) => ticket !== oldest)], iteration);
    iteration.pass?.release();
    return iteration.pass === undefined && iteration.step === undefined ? undefined : iteration;
  }

  /** Takes a request out of later steps. */
  part(request: Request): void {
    if (request.member === undefined) return;
    this.#floor.engine.leave(request.member);
    this.#members.delete(request.member);
    request.member = undefined;
  }

  /** Tells the store which tokens the session's pages hold by now. */
  note(session: SessionState): void {
    const to = Math.min(session.sequence.length, session.context.settled);
    if (to <= session.noted) return;
    const { context, sequence, noted } = session;
    this.#floor.store.noteTokens(sequence, noted, context.slice(noted, to));
    session.noted = to;
  }

  /** Enqueues a pass over tokens that are to be read, those of the first request first. */
  #read(order: readonly Request[], iteration: Iteration): void {
    const { engine, options } = this.#floor;
    const isDecoding = order.some(({ phase }) => phase === "decoding");
    let budget = isDecoding ? Math.min(options.prefillTokens, engine.passTokens) : engine.passTokens;
    const pieces: Piece[] = [];
    const readers: Request[] = [];
    for (const request of order) {
      if (request.phase !== "reading") continue;
      const { context, sequence, computed } = request.session;
      const from = sequence.length;
      const count = Math.min(budget, context.settled - from);
      if (count === 0) continue;
      const isLast = from + count === context.settled;
      const sampling = isLast && request.wantsFirst ? request.wish?.sampling : undefined;
      pieces.push({ sequence, tokens: context.slice(from, from + count), sampling });
      readers.push(request);
      budget -= count;
      const again = Math.max(0, Math.min(computed, from + count) - from);
      request.recomputedTokens += again;
      iteration.recomputedTokens += again;
      iteration.readTokens += count;
    }
    if (pieces.length === 0) return;
    iteration.pass = engine.pass(pieces, waitingFor(readers));
    iteration.pass.tokens.catch(() => undefined); // awaited when the iteration settles
    readers.forEach((request, i) => {
      this.#hasRead(request, pieces[i]?.sampling !== undefined, iteration);
    });
  }

  #hasRead(request: Request, hasFirst: boolean, iteration: Iteration): void {
    const { session, wish } = request;
    request.waitLayer = undefined; // the pass has waited
    session.computed = Math.max(session.computed, session.sequence.length);
    this.note(session);
    request.sink.onRead(session.sequence.length);
    if (request.unread > 0) return;
    request.phase = "decoding";
    if (wish === undefined) {
      iteration.ends.push(request);
      request.inFlight++;
    } else if (hasFirst) {
      iteration.firsts.push(request);
      request.inFlight++;
      request.scheduled++;
    }
  }

  /** Enqueues a step of all that decode and find a page, in the order in which pages are given. */
  #step(order: readonly Request[], iteration: Iteration): void {
    const { engine, store, tally } = this.#floor;
    let free = store.freePages() - promisedPages(this.#floor);
    let isShort = false;
    for (const request of order) {
      if (request.phase !== "decoding") continue;
      if (!request.takesStep) {
        this.part(request);
        continue;
      }
      const need = engine.cache.pagesToReserve([request.session.sequence.row], [1]);
      isShort ||= need > free;
      if (isShort && need > 0) {
        if (request.member !== undefined) tally.stalls++;
        this.part(request);
        continue;
      }
      free -= need;
      this.#join(request, iteration);
    }
    if (this.#members.size === 0) return;
    const { members, tokens } = engine.step();
    tokens.catch(() => undefined); // awaited when the iteration settles
    iteration.step = tokens;
    iteration.members = members.map((member) => this.#members.get(member) as Request);
    for (const request of iteration.members) {
      request.scheduled++;
      request.inFlight++;
      request.session.computed = Math.max(request.session.computed, request.session.sequence.length);
    }
  }

  /** Makes a request a member of the batch, once its latest token is known here or was chosen in this iteration's pass. */
  #join(request: Request, iteration: Iteration): void {
    if (request.member !== undefined) return;
    const { context, sequence } = request.session;
    const place = iteration.firsts.indexOf(request);
    if (place >= 0) request.member = (iteration.pass as Pass).join(place);
    else if (request.inFlight > 0 || request.wish === undefined) return;
    else {
      const latest = context.at(context.length - 1);
      request.member = this.#floor.engine.join(sequence, request.wish.sampling, request.made - 1, latest);
    }
    this.#members.set(request.member, request);
  }
}

/** Lets a pass wait, layer by layer, for the pages of those whose copies are under way. */
function waitingFor(readers: readonly Request[]): ((stream: Stream, layer: number) => void) | undefined {
  const waits = readers.flatMap(({ waitLayer }) => (waitLayer === undefined ? [] : [waitLayer]));
  if (waits.length === 0) return undefined;
  return (stream, layer) => {
    for (const wait of waits) wait(stream, layer);
  };
}
