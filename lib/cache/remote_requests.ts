/**
 * What the remote tier asks of the server, and what the answers mean for pages. Failures are noted with the circuit breaker, and nothing
 * is asked while that is open.
 */
import { openPages, sealPages } from "../page_staging.js";
import type { CircuitBreaker } from "./circuit_breaker.js";
import type { RemoteLink } from "./remote_link.js";
import { type Reply, type Request, VALUE_MISSING, VALUE_REFUSED } from "./remote_protocol.js";
import type { Bundle, RemoteStaging } from "./remote_staging.js";
import { DAMAGED, KEY_WORDS, LOADED, MISSING, type PageBatch, PRESENT, REFUSED, STORED } from "./tier_driver.js";

/** Keys of one question. */
const LOOKUP_KEYS = 4096;

export class RemoteRequests {
  readonly #link: RemoteLink;
  readonly #breaker: CircuitBreaker;
  readonly #staging: RemoteStaging;
  /** Before every key: which model and layout, so that another identity's pages are never met. */
  readonly #prefix: string;

  /** Pages that came through the client's own memory instead of straight into the staging buffer. */
  copied = 0;

  constructor(link: RemoteLink, breaker: CircuitBreaker, staging: RemoteStaging, fingerprint: Uint8Array) {
    this.#link = link;
    this.#breaker = breaker;
    this.#staging = staging;
    this.#prefix = `kvasir:${Buffer.from(fingerprint).toString("hex")}`;
  }

  /** Keys as the server knows them: kvasir:<fingerprint>:<group>:<key>, the key's bytes in their order. */
  names(group: number, keys: Uint32Array): string[] {
    const hex = Buffer.from(keys.buffer, keys.byteOffset, keys.byteLength).toString("hex");
    const digits = 8 * KEY_WORDS;
    return Array.from({ length: keys.length / KEY_WORDS }, (_, i) => {
      return `${this.#prefix}:${group}:${hex.slice(i * digits, (i + 1) * digits)}`;
    });
  }

  /** Flags what is there; false where the server could not tell all. */
  async lookUp(names: readonly string[], found: Uint8Array, signal: AbortSignal | undefined): Promise<boolean> {
    for (let at = 0; at < names.length; at += LOOKUP_KEYS) {
      if (!this.#breaker.isClosed) return false;
      const question = this.#ask({ type: "exists", keys: names.slice(at, at + LOOKUP_KEYS) });
      const reply = await unlessAborted(question, signal);
      if (reply?.found === undefined) return false;
      found.set(reply.found, at);
    }
    return true;
  }

  /** Sets the status of every page that was stored, is there already or is refused. */
  async store(batch: PageBatch, statuses: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    const present = new Uint8Array(statuses.length);
    if (!(await this.lookUp(this.names(batch.group, batch.keys), present, signal))) return;
    for (const [page, isPresent] of present.entries()) if (isPresent === 1) statuses[page] = PRESENT;
    const absent = Array.from(present.keys()).filter((page) => present[page] === 0);
    await this.#staging.each(batch, absent, signal, (bundle) => this.#storeBundle(batch, bundle, statuses, signal));
  }

  /** Sets the status of every page that came, is missing or is damaged; damaged ones are deleted. */
  async load(batch: PageBatch, statuses: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    const all = Array.from(statuses.keys());
    await this.#staging.each(batch, all, signal, (bundle) => this.#loadBundle(batch, bundle, statuses, signal));
  }

  /** Returns how many there were. */
  async delete(names: readonly string[]): Promise<number> {
    return (await this.#ask({ type: "delete", keys: names })).count ?? 0;
  }

  async #storeBundle(batch: PageBatch, bundle: Bundle, statuses: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    const { pages, staged } = bundle;
    if (!this.#breaker.isClosed) {
      for (const page of pages) statuses[page] = REFUSED;
      return;
    }
    await sealPages(staged);
    const values = await this.#transfer("set", batch, bundle, signal);
    for (const [i, value] of values.entries()) {
      if (value >= 0) statuses[pages[i] as number] = STORED;
      if (value === VALUE_REFUSED) statuses[pages[i] as number] = REFUSED;
    }
  }

  async #loadBundle(batch: PageBatch, bundle: Bundle, statuses: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    if (!this.#breaker.isClosed) return;
    const { pages, staged } = bundle;
    const values = await this.#transfer("get", batch, bundle, signal);
    if (!values.some((value) => value >= 0)) {
      for (const [i, value] of values.entries()) if (value === VALUE_MISSING) statuses[pages[i] as number] = MISSING;
      return;
    }
    // One that did not come has no bytes; it is not looked at.
    const faults = await openPages(
      staged,
      Float64Array.from(values, (value) => Math.max(0, value)),
    );
    const damaged: number[] = [];
    for (const [i, value] of values.entries()) {
      if (value === VALUE_MISSING) statuses[pages[i] as number] = MISSING;
      if (value < 0) continue;
      statuses[pages[i] as number] = faults[i] === 0 ? LOADED : DAMAGED;
      if (faults[i] !== 0) damaged.push(i);
    }
    if (damaged.length === 0) return;
    const names = this.names(batch.group, staged.keys);
    await this.delete(damaged.map((i) => names[i] as string));
  }

  /** What became of each page, as in the protocol; nothing after an abort, when the request goes on alone. */
  async #transfer(
    type: "set" | "get",
    batch: PageBatch,
    { staged, hold }: Bundle,
    signal: AbortSignal | undefined,
  ): Promise<readonly number[]> {
    const keys = this.names(batch.group, staged.keys);
    const bytes = this.#staging.pageBytes(batch.group);
    const asked = this.#ask({ type, bytes, keys, offsets: Array.from(staged.offsets) });
    hold(asked);
    const reply = await unlessAborted(asked, signal);
    this.copied += reply?.copied ?? 0;
    return reply?.values ?? [];
  }

  async #ask(request: Request): Promise<Reply> {
    const { epoch } = this.#breaker;
    const reply = await this.#link.request(request);
    if (reply.failure === undefined) this.#breaker.succeeded(epoch);
    else this.#breaker.failed(epoch, reply.failure);
    return reply;
  }
}

/** What `work` resolves with, or undefined as soon as the signal aborts. */
function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T | undefined> {
  if (signal === undefined) return work;
  if (signal.aborted) return Promise.resolve(undefined);
  return new Promise((resolve, reject) => {
    const leave = (): void => resolve(undefined);
    signal.addEventListener("abort", leave, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", leave));
  });
}
