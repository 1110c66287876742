/** One conversation with a model: a context that grows turn by turn, and rests between turns. */
import type { Sequence } from "../cache/sequence.js";
import { KvasirError } from "../errors.js";
import type { Sampling } from "../model/decode_program.js";
import { checkInteger, checkOptions } from "../options.js";
import { Answer, type RequestCounters } from "./answer.js";
import { Context } from "./context.js";
import type { Loop } from "./loop.js";
import { Request, type RequestSink, type SessionState, type Wish } from "./request.js";
import type { SchedulerParts } from "./scheduler.js";

export interface SessionOptions {
  /** Sessions share pages of equal beginnings only where their salts are equal. */
  salt?: string | undefined;
  /** Of its requests, unless they say otherwise; higher goes first. Default 0. */
  priority?: number | undefined;
  /** How tokens are chosen, unless a request says otherwise. Default greedy. */
  sampling?: Sampling | undefined;
}

export interface ReadOptions {
  /** Ends the request; the session is then as it was before. */
  signal?: AbortSignal | undefined;
  priority?: number | undefined;
  /** Called with the tokens of the session that are read, as passes are enqueued. */
  onProgress?: ((tokens: number) => void) | undefined;
}

export interface AskOptions extends Sampling, ReadOptions {
  /** Most tokens of the answer; default 256. */
  maxTokens?: number | undefined;
  /** Tokens that end the answer and are not part of it; by default the model's own. */
  stopTokens?: readonly number[] | undefined;
}

const samplingNames = ["temperature", "topK", "topP", "seed"] as const;

/**
 * A session of a scheduler: `scheduler.open()`. It works on one request at a time; between them nothing of it runs, and its pages may leave
 * the device. The next request brings them back.
 */
export class Session implements AsyncDisposable {
  readonly #parts: SchedulerParts;
  readonly #loop: Loop;
  readonly #options: SessionOptions;
  readonly #state: SessionState;
  #latest: Request | undefined;
  #closed: Promise<void> | undefined;

  /** @internal */
  constructor(parts: SchedulerParts, options: SessionOptions, from?: { context: Context; sequence: Sequence; computed: number }) {
    this.#parts = parts;
    this.#loop = parts.loop;
    this.#options = options;
    this.#state = {
      context: from?.context ?? new Context(),
      sequence: from?.sequence ?? parts.engine.createSequence(options.salt),
      priority: options.priority ?? 0,
      request: undefined,
      computed: from?.computed ?? 0,
      noted: from?.sequence.length ?? 0,
      isSuspended: true,
      moving: undefined,
      restingSince: parts.clock(),
    };
    this.#loop.sessions.add(this.#state);
  }

  /** Tokens of its context: what it was told and what it answered. */
  get length(): number {
    return this.#state.context.length;
  }

  /** Whether a request of it is unfinished. */
  get isBusy(): boolean {
    return this.#state.request !== undefined;
  }

  get closed(): boolean {
    return this.#closed !== undefined;
  }

  /** A copy of its tokens. */
  tokens(): Int32Array {
    return this.#state.context.slice(0, this.length);
  }

  /**
   * Reads text or tokens into the session.
   * @throws ERR_KVASIR_OUT_OF_PAGES, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_DISPOSED, or the signal's reason
   */
  prefill(prompt: string | ArrayLike<number>, options: ReadOptions = {}): Promise<RequestCounters> {
    checkOptions("prefill", options, ["signal", "priority", "onProgress"]);
    return new Promise((resolve, reject) => {
      this.#submit(prompt, options, undefined, {
        onRead: (tokens) => options.onProgress?.(tokens),
        onEnd: (_, counters) => resolve(counters),
        onError: reject,
      });
    });
  }

  /**
   * Reads a question and answers it. The answer starts at once, whether it is read or not; `answer.result` resolves at its end.
   * @throws ERR_KVASIR_OUT_OF_PAGES, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNKNOWN_OPTION, ERR_KVASIR_DISPOSED; later, from the answer,
   * the signal's reason
   */
  ask(prompt: string | ArrayLike<number>, options: AskOptions = {}): Answer {
    checkOptions("ask", options, ["signal", "priority", "onProgress", "maxTokens", "stopTokens", ...samplingNames]);
    const { model } = this.#parts;
    let request: Request | undefined;
    const answer = new Answer(model?.hasTokenizer ? model.tokenizer : undefined, (yielded) => this.#leave(request, yielded));
    const wish: Wish = {
      maxTokens: checkInteger("maxTokens", options.maxTokens ?? 256, 1),
      stops: new Set(options.stopTokens ?? model?.config.eosTokens ?? []),
      sampling: this.#sampling(options),
      onToken: (token) => answer.push(token),
    };
    request = this.#submit(prompt, options, wish, {
      onRead: (tokens) => options.onProgress?.(tokens),
      onEnd: (finish, counters) => answer.finish(finish, counters),
      onError: (error) => answer.fail(error),
    });
    return answer;
  }

  /**
   * Another session with the same context; they share pages until they differ.
   * @throws ERR_KVASIR_INVALID_ARGUMENT while a request is unfinished; ERR_KVASIR_DISPOSED
   */
  fork(options: Omit<SessionOptions, "salt"> = {}): Session {
    checkOptions("fork", options, ["priority", "sampling"]);
    this.#checkFree("fork");
    const { context, sequence, computed } = this.#state;
    return this.#parts.adopt({ ...this.#options, ...options }, (settings) => {
      return new Session(this.#parts, settings, { context: context.fork(), sequence: sequence.fork(), computed });
    });
  }

  /** Ends what it is doing and frees its pages; resolves when they are free. A no-op the second time. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    const { request } = this.#state;
    if (request !== undefined) {
      const ended = new Promise<void>((resolve) => request.onDone(resolve));
      this.#loop.cancel(request, new KvasirError("ERR_KVASIR_DISPOSED", "Session was closed before its answer ended"));
      await ended;
    }
    this.#loop.sessions.delete(this.#state);
    this.#parts.forget(this);
    if (!this.#state.sequence.disposed) this.#state.sequence.dispose();
    this.#loop.wake();
  }

  #submit(prompt: string | ArrayLike<number>, options: ReadOptions, wish: Wish | undefined, sink: RequestSink): Request {
    this.#checkFree(wish === undefined ? "prefill" : "ask");
    const { context } = this.#state;
    const { signal, priority = this.#state.priority } = options;
    checkInteger("priority", priority, -1000, 1000);
    const tokens = this.#encode(prompt);
    this.#parts.checkTokens(tokens);
    signal?.throwIfAborted();
    const { mark } = context;
    const start = { mark, promptTokens: tokens.length, priority };
    const request = new Request(this.#parts.nextTicket(), this.#state, this.#parts.clock(), start, wish, sink);
    context.append(tokens);
    try {
      this.#loop.submit(request);
    } catch (error) {
      context.truncate(mark);
      throw error;
    }
    if (signal !== undefined) this.#watch(request, signal);
    this.#latest = request;
    return request;
  }

  #watch(request: Request, signal: AbortSignal): void {
    const abort = (): void => this.#loop.cancel(request, signal.reason);
    signal.addEventListener("abort", abort, { once: true });
    request.onDone(() => signal.removeEventListener("abort", abort));
  }

  /** The reader left the answer's loop after so many tokens. */
  #leave(request: Request | undefined, yielded: number): void {
    if (request === undefined) return;
    if (request.phase !== "done") this.#loop.leave(request, yielded);
    else if (request === this.#latest && !this.isBusy && !this.closed && !request.hasFailed) this.#loop.keep(request, yielded);
  }

  #encode(prompt: string | ArrayLike<number>): ArrayLike<number> {
    if (typeof prompt !== "string") return prompt;
    const { model } = this.#parts;
    if (model !== undefined) return model.encodePrompt(prompt, this.length === 0);
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", "prompt is text, expected tokens: there is no tokenizer");
  }

  #sampling(options: AskOptions): Sampling {
    const sampling: Sampling = { ...this.#options.sampling };
    for (const name of samplingNames) if (options[name] !== undefined) sampling[name] = options[name];
    this.#parts.checkSampling(sampling);
    return sampling;
  }

  #checkFree(what: string): void {
    if (this.closed) throw new KvasirError("ERR_KVASIR_DISPOSED", `Session was closed; open another for ${what}`);
    if (this.isBusy) {
      throw new KvasirError(
        "ERR_KVASIR_INVALID_ARGUMENT",
        `${what} while the session's last request is unfinished; await it, or fork the session before`,
      );
    }
  }
}
