/**
 * What it costs to take a sequence off the device and bring it back: by copying its pages, or by dropping them and reading its tokens
 * again. Rates are running averages of what was measured, from given first guesses on.
 */

/** Units per second, averaged over the latest measurements: older ones lose weight with every second measured since. */
export class RunningRate {
  readonly #memorySeconds: number;
  #amount: number;
  #seconds: number;

  /** `guess` counts as much as `guessSeconds` of measuring; what is older than some `memorySeconds` of measuring hardly counts. */
  constructor(guess: number, guessSeconds = 0.05, memorySeconds = 5) {
    this.#memorySeconds = memorySeconds;
    this.#amount = guess * guessSeconds;
    this.#seconds = guessSeconds;
  }

  /** Counts `amount` done in `seconds`; a measurement without length says nothing and is left out. */
  add(amount: number, seconds: number): void {
    if (!(seconds > 0) || !(amount > 0)) return;
    const kept = Math.exp(-seconds / this.#memorySeconds);
    this.#amount = this.#amount * kept + amount;
    this.#seconds = this.#seconds * kept + seconds;
  }

  get perSecond(): number {
    return this.#amount / this.#seconds;
  }
}

/** First guesses, until something was measured. */
export interface FirstRates {
  /** Tokens a second of a prefill. */
  prefillTokens?: number | undefined;
  /** Bytes a second from the device, and to it. */
  bytesOut?: number | undefined;
  bytesIn?: number | undefined;
}

export const defaultRates: Required<{ [K in keyof FirstRates]: number }> = {
  prefillTokens: 5000,
  bytesOut: 10e9,
  bytesIn: 10e9,
};

export class CostModel {
  readonly prefill: RunningRate;
  readonly out: RunningRate;
  readonly in: RunningRate;

  constructor(first: FirstRates = {}) {
    this.prefill = new RunningRate(first.prefillTokens ?? defaultRates.prefillTokens);
    this.out = new RunningRate(first.bytesOut ?? defaultRates.bytesOut);
    this.in = new RunningRate(first.bytesIn ?? defaultRates.bytesIn);
  }

  /** Seconds to copy a sequence away and back: only its dirty bytes go out, all of its bytes come in. */
  swapSeconds(dirtyBytes: number, bytes: number): number {
    return dirtyBytes / this.out.perSecond + bytes / this.in.perSecond;
  }

  /** Seconds to read a sequence's tokens again. */
  recomputeSeconds(tokens: number): number {
    return tokens / this.prefill.perSecond;
  }

  cheaper(sequence: { dirtyBytes: number; bytes: number; tokens: number }): "swap" | "recompute" {
    const swap = this.swapSeconds(sequence.dirtyBytes, sequence.bytes);
    return swap <= this.recomputeSeconds(sequence.tokens) ? "swap" : "recompute";
  }
}
