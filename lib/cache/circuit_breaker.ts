/**
 * Keeps callers from waiting for a service that does not answer. After a number of failures in a row it opens: callers are to be refused
 * at once. From time to time, with growing and jittered pauses, it probes the service, and closes when that answers.
 */

export interface CircuitBreakerOptions {
  /** Failures in a row that open it. */
  failures: number;
  /** Pause before the first probe, doubled for each further one up to `maxBackoffMs`; each is drawn from 50 to 100 % of that. */
  backoffMs: number;
  maxBackoffMs: number;
  /** Whether the service answers; never rejects. */
  probe: () => Promise<boolean>;
  onOpen?: (reason: string) => void;
  onClose?: () => void;
}

export class CircuitBreaker {
  readonly #options: CircuitBreakerOptions;
  #state: "closed" | "open" | "probing" | "stopped" = "closed";
  #failures = 0;
  #probes = 0;
  #epoch = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: CircuitBreakerOptions) {
    this.#options = options;
  }

  get isClosed(): boolean {
    return this.#state === "closed";
  }

  /** Rises whenever the breaker opens; results of calls made in an earlier epoch say nothing about now. */
  get epoch(): number {
    return this.#epoch;
  }

  /** A call made in `epoch` was answered. */
  succeeded(epoch: number): void {
    if (epoch === this.#epoch) this.#failures = 0;
  }

  /** A call made in `epoch` was not. */
  failed(epoch: number, reason: string): void {
    if (epoch === this.#epoch && this.isClosed && ++this.#failures >= this.#options.failures) this.open(reason);
  }

  /** Opens it whatever was counted. */
  open(reason: string): void {
    if (!this.isClosed) return;
    this.#epoch++;
    this.#probes = 0;
    this.#wait();
    this.#options.onOpen?.(reason);
  }

  /** Ends probing; it stays open. */
  stop(): void {
    this.#state = "stopped";
    clearTimeout(this.#timer);
  }

  #wait(): void {
    this.#state = "open";
    const { backoffMs, maxBackoffMs } = this.#options;
    const most = Math.min(maxBackoffMs, backoffMs * 2 ** Math.min(this.#probes, 30));
    this.#timer = setTimeout(() => void this.#probe(), most * (0.5 + Math.random() / 2));
    this.#timer.unref(); // an idle tier keeps no process alive
  }

  async #probe(): Promise<void> {
    this.#state = "probing";
    this.#probes++;
    const answers = await this.#options.probe();
    if (this.#state !== "probing") return;
    if (!answers) return this.#wait();
    this.#failures = 0;
    this.#state = "closed";
    this.#options.onClose?.();
  }
}
