/**
 * What the remote tier asks of the server, and what the answers mean for pages. Failures are noted with the circuit breaker, and nothing
 * is asked while that is open.
 */
import { openPages, sealPages } from "../page_staging.js";
import type { CircuitBreaker } from "./circuit_breaker.js";
import type { RemoteLink } from "./remote_link.js";
import type { Reply, Request } from "./remote_protocol.js";
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
      if (reply?.status !== "ok") return false;
      found.set(reply.found as Uint8Array, at);
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
    const reply = await this.#ask({ type: "delete", keys: names });
    return reply.status === "ok" ? (reply.count as number) : 0;
  }

  async #storeBundle(batch: PageBatch, bundle: Bundle, statuses: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    const { pages, staged } = bundle;
    if (!this.#breaker.isClosed) {
      for (const page of pages) statuses[page] = REFUSED;
      return;
    }
    await sealPages(staged);
    const replies = this.#askForPages("set", this.names(batch.group, staged.keys), batch.group, staged.offsets);
    bundle.hold(replies);
    const answers = (await unlessAborted(replies, signal)) ?? [];
    for (const [i, answer] of answers.entries()) {
      if (answer.status === "ok") statuses[pages[i] as number] = STORED;
      if (answer.status === "refused") statuses[pages[i] as number] = REFUSED;
    }
  }

  async #loadBundle(batch: PageBatch, bundle: Bundle, statuses: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    if (!this.#breaker.isClosed) return;
    const { pages, staged } = bundle;
    const names = this.names(batch.group, staged.keys);
    const replies = this.#askForPages("get", names, batch.group, staged.offsets);
    bundle.hold(replies);
    const answers = await unlessAborted(replies, signal);
    if (answers === undefined) return;
    // One that did not come has no bytes; it is not looked at.
    const lengths = Float64Array.from(answers, (answer) => (answer.status === "ok" ? (answer.bytes as number) : 0));
    const faults = answers.some(({ status }) => status === "ok") ? await openPages(staged, lengths) : [];
    const damaged: string[] = [];
    for (const [i, answer] of answers.entries()) {
      const page = pages[i] as number;
      if (answer.status === "missing") statuses[page] = MISSING;
      if (answer.status !== "ok") continue;
      statuses[page] = faults[i] === 0 ? LOADED : DAMAGED;
      if (faults[i] !== 0) damaged.push(names[i] as string);
    }
    if (damaged.length > 0) await this.delete(damaged);
  }

  #askForPages(type: "set" | "get", names: readonly string[], group: number, offsets: Float64Array): Promise<Reply[]> {
    const bytes = this.#staging.pageBytes(group);
    return Promise.all(names.map((key, i) => this.#ask({ type, key, offset: offsets[i] as number, bytes })));
  }

  async #ask(request: Request): Promise<Reply> {
    const { epoch } = this.#breaker;
    const reply = await this.#link.request(request);
    if (reply.status === "failed") this.#breaker.failed(epoch, reply.reason);
    else this.#breaker.succeeded(epoch);
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
