/** An answer as it comes: an iterator over its tokens, and a result when it has ended. */
import type { GeneratedToken } from "../model/generate.js";
import { TextStream, type Tokenizer } from "../model/tokenizer.js";

/** Why an answer ended: a stop token, `maxTokens`, or the reader left the loop. */
export type FinishReason = "stop" | "length" | "left";

export interface RequestCounters {
  /** Tokens that the request added to the session, and tokens of the session that were there before. */
  promptTokens: number;
  contextTokens: number;
  /** Tokens of the session that were still on the device, or came back to it by a copy, when the request was first let in. */
  cachedTokens: number;
  /** Tokens that were read once more because their pages had been dropped. */
  recomputedTokens: number;
  /** Times that the request gave way to another. */
  preemptions: number;
  /** Bytes that came back to the device for it. */
  bytesIn: number;
  /** Milliseconds until it was first let in, until its first token, and in all. */
  queueMs: number;
  firstTokenMs: number;
  totalMs: number;
}

export interface AskResult extends RequestCounters {
  tokens: number[];
  text: string;
  finish: FinishReason;
}

interface Reader {
  resolve(result: IteratorResult<GeneratedToken>): void;
  reject(reason: unknown): void;
}

/**
 * What `session.ask` returns. It runs whether it is read or not. Leaving the loop early ends the answer there: the session keeps what was
 * yielded and forgets the rest.
 */
export class Answer implements AsyncIterableIterator<GeneratedToken> {
  /** Resolves at the end; rejects with the signal's reason, or what went wrong. */
  readonly result: Promise<AskResult>;
  readonly #text: TextStream | undefined;
  readonly #onLeave: (yielded: number) => void;
  /** Tokens that are there to be read, and how many of them were. */
  readonly #given: GeneratedToken[] = [];
  #yielded = 0;
  readonly #readers: Reader[] = [];
  /** The latest token, held back until it is known whether it is the last. */
  #held: GeneratedToken | undefined;
  #end: { error?: unknown } | undefined;
  #settle: { resolve(result: AskResult): void; reject(reason: unknown): void } | undefined;

  /** @internal */
  constructor(tokenizer: Tokenizer | undefined, onLeave: (yielded: number) => void) {
    this.#text = tokenizer === undefined ? undefined : new TextStream(tokenizer);
    this.#onLeave = onLeave;
    this.result = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    this.result.catch(() => undefined); // a reader of the tokens alone gets the error from the iterator
  }

  /** @internal */
  push(token: number): void {
    if (this.#held !== undefined) this.#give(this.#held);
    this.#held = { token, text: this.#text?.push(token) ?? "" };
  }

  /** @internal */
  finish(finish: FinishReason, counters: RequestCounters): void {
    if (this.#end !== undefined) return;
    if (this.#held !== undefined) this.#give({ token: this.#held.token, text: this.#held.text + (this.#text?.end() ?? "") });
    this.#held = undefined;
    this.#close({});
    const tokens = this.#given.map(({ token }) => token);
    const text = this.#given.map((given) => given.text).join("");
    this.#settle?.resolve({ ...counters, tokens, text, finish });
  }

  /** @internal */
  fail(error: unknown): void {
    if (this.#end !== undefined) return;
    this.#close({ error });
    this.#settle?.reject(error);
  }

  next(): Promise<IteratorResult<GeneratedToken>> {
    const value = this.#given[this.#yielded];
    if (value !== undefined) {
      this.#yielded++;
      return Promise.resolve({ value, done: false });
    }
    if (this.#end === undefined) return new Promise((resolve, reject) => this.#readers.push({ resolve, reject }));
    const { error } = this.#end;
    this.#end = {};
    return error === undefined ? Promise.resolve({ value: undefined, done: true }) : Promise.reject(error);
  }

  async return(): Promise<IteratorResult<GeneratedToken>> {
    this.#given.length = this.#yielded;
    this.#held = undefined;
    this.#onLeave(this.#yielded);
    return { value: undefined, done: true };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  #give(token: GeneratedToken): void {
    this.#given.push(token);
    const reader = this.#readers.shift();
    if (reader === undefined) return;
    this.#yielded++;
    reader.resolve({ value: token, done: false });
  }

  #close(end: { error?: unknown }): void {
    this.#end = end;
    for (const { resolve, reject } of this.#readers.splice(0)) {
      if (end.error === undefined) resolve({ value: undefined, done: true });
      else reject(end.error);
    }
  }
}
