/** What the scheduler knows of a session and of the request that it works on. */
import type { Sequence } from "../cache/sequence.js";
import type { Sampling } from "../model/decode_program.js";
import type { Stream } from "../stream.js";
import type { FinishReason, RequestCounters } from "./answer.js";
import type { Context, Mark } from "./context.js";

/** A session as the scheduler sees it. */
export interface SessionState {
  readonly context: Context;
  readonly sequence: Sequence;
  readonly priority: number;
  /** Its unfinished request; undefined while it rests. */
  request: Request | undefined;
  /** Most tokens that its pages ever held: what is read below this is read again. */
  computed: number;
  /** Tokens that the store was told of. */
  noted: number;
  /** Whether the store takes it for one that does not run. */
  isSuspended: boolean;
  /** Copies of its pages off the device that are under way. */
  moving: Promise<void> | undefined;
  /** When its last request ended. */
  restingSince: number;
}

/**
 * waiting: for pages or for its turn; loading: its pages are on their way in; reading: tokens are read in passes; decoding: a token per
 * step; done.
 */
export type Phase = "waiting" | "loading" | "reading" | "decoding" | "done";

/** What a request wants besides the tokens that were appended to its session: nothing, or an answer. */
export interface Wish {
  maxTokens: number;
  stops: ReadonlySet<number>;
  sampling: Sampling;
  onToken(token: number): void;
}

export interface RequestSink {
  onRead(tokens: number): void;
  onEnd(finish: FinishReason, counters: RequestCounters): void;
  onError(error: unknown): void;
}

export class Request {
  readonly ticket: number;
  readonly session: SessionState;
  readonly priority: number;
  readonly arrivedAt: number;
  readonly wish: Wish | undefined;
  readonly sink: RequestSink;
  /** Where the session goes back to when the request fails. */
  readonly mark: Mark;
  readonly promptTokens: number;
  phase: Phase = "waiting";
  /** Its place in the decode batch. */
  member: object | undefined;
  /** Tokens whose choice was enqueued, and those that were read back. */
  scheduled = 0;
  made = 0;
  /** Iterations under way that hold results for it. */
  inFlight = 0;
  /** Device pages that are kept for it while it loads. */
  promised = 0;
  bypassed = 0;
  /** `session.computed` when it was last let in. */
  computedBefore = 0;
  /** Makes a stream wait for a layer's pages, while they are still on their way under its first pass. */
  waitLayer: ((stream: Stream, layer: number) => void) | undefined;
  /** Ends it, once its load has settled. */
  ending: (() => void) | undefined;
  isFirstLoad = true;
  hasFailed = false;
  readonly #doneListeners: (() => void)[] = [];
  readonly loading: AbortController = new AbortController();
  admittedAt: number | undefined;
  firstTokenAt: number | undefined;
  preemptions = 0;
  cachedTokens = 0;
  recomputedTokens = 0;
  bytesIn = 0;

  constructor(
    ticket: number,
    session: SessionState,
    arrivedAt: number,
    start: { mark: Mark; promptTokens: number; priority: number },
    wish: Wish | undefined,
    sink: RequestSink,
  ) {
    this.ticket = ticket;
    this.session = session;
    this.arrivedAt = arrivedAt;
    this.mark = start.mark;
    this.promptTokens = start.promptTokens;
    this.priority = start.priority;
    this.wish = wish;
    this.sink = sink;
  }

  /** Tokens that its pages lack. */
  get unread(): number {
    return this.session.context.settled - this.session.sequence.length;
  }

  /** Whether a token is to be chosen from the logits of its last unread one. */
  get wantsFirst(): boolean {
    return this.wish !== undefined && this.scheduled === 0;
  }

  /** Whether its next step is to be enqueued. */
  get takesStep(): boolean {
    return this.phase === "decoding" && this.scheduled < (this.wish?.maxTokens ?? 0);
  }

  /** Most tokens that its pages may ever hold. */
  get mostTokens(): number {
    return this.mark.length + this.promptTokens + Math.max(0, (this.wish?.maxTokens ?? 0) - 1);
  }

  /** Whether its pages, or results for it, are still under way from its last time on the device. */
  get isReady(): boolean {
    return this.inFlight === 0 && this.session.moving === undefined;
  }

  /** Calls `listener` once the request has ended and its pages are at rest. */
  onDone(listener: () => void): void {
    if (this.phase === "done") listener();
    else this.#doneListeners.push(listener);
  }

  /** Marks it as ended. */
  setDone(hasFailed: boolean): void {
    this.phase = "done";
    this.hasFailed = hasFailed;
    for (const listener of this.#doneListeners.splice(0)) listener();
  }

  counters(now: number): RequestCounters {
    const since = (at: number | undefined): number => (at ?? now) - this.arrivedAt;
    return {
      promptTokens: this.promptTokens,
      contextTokens: this.mark.length,
      cachedTokens: this.cachedTokens,
      recomputedTokens: this.recomputedTokens,
      preemptions: this.preemptions,
      bytesIn: this.bytesIn,
      queueMs: since(this.admittedAt),
      firstTokenMs: since(this.firstTokenAt),
      totalMs: since(undefined),
    };
  }
}
