/**
 * The remote tier: pages in a Redis or Valkey server, where caches of several processes and hosts find each other's prefixes. A thread of
 * its own speaks to the server; page bytes go between the pool, a staging buffer and that thread, and past this one.
 */
import { KvasirError } from "../errors.js";
import { describe } from "../options.js";
import { stagedBytes } from "../page_staging.js";
import { ByteWindow } from "./byte_window.js";
import { CircuitBreaker } from "./circuit_breaker.js";
import { RemoteLink } from "./remote_link.js";
import { checkRemoteOptions, type RemoteSettings, type RemoteTierOptions } from "./remote_options.js";
import { RemoteRequests } from "./remote_requests.js";
import { RemoteStaging } from "./remote_staging.js";
import {
  DAMAGED,
  FAILED,
  KEY_WORDS,
  LOADED,
  MISSING,
  type PageBatch,
  REFUSED,
  STORED,
  type TierDriver,
  type TierStats,
} from "./tier_driver.js";
import { fingerprint } from "./tier_identity.js";

export type { RemoteTierOptions } from "./remote_options.js";

export interface RemoteStats extends TierStats {
  /** Loaded pages that went through the client's own memory, which costs several times as much: with TLS, or a client other than node-redis 6. */
  copied: number;
}

const LEAST_WINDOW_BYTES = 16 * 2 ** 20;

/**
 * Opens a remote tier. A server that does not answer is no error: the tier holds nothing until it does, says so once through
 * `onWarning`, and keeps trying.
 *
 * @throws (rejections) ERR_KVASIR_UNSUPPORTED where the client package is not installed; ERR_KVASIR_INVALID_ARGUMENT,
 * ERR_KVASIR_UNKNOWN_OPTION for options; ERR_KVASIR_OUT_OF_MEMORY for a window that the host has no memory for
 *
 * @example
 * ```ts
 * import { TIER_VERSION, openDevice, openRemoteTier } from "kvasir";
 *
 * using cpu = openDevice("cpu");
 * using pool = cpu.zeros("bf16", [8, 65536]);
 * const group = { layers: [0, 1], numKvHeads: 2, headDim: 128, format: "identity", pageBytes: 131072, storeRotated: true };
 * const identity = { version: TIER_VERSION, model: "example", dtype: "bf16", pageSize: 64, groups: [group] };
 * const tier = await openRemoteTier({ url: "redis://localhost:6379", identity, pools: [pool], onWarning: console.error });
 * const page = { group: 0, keys: Uint32Array.of(1, 2, 3, 4), parents: new Uint32Array(4), tokens: new Int32Array(64) };
 * await tier.store({ ...page, slots: Int32Array.of(0) });
 * console.log(await tier.load({ ...page, slots: Int32Array.of(5) })); // Uint8Array [ 0 ]: LOADED; [ 3 ]: FAILED without a server
 * await tier.close();
 * ```
 */
export async function openRemoteTier(options: RemoteTierOptions): Promise<RemoteTier> {
  const settings = checkRemoteOptions(options);
  const { identity, pools } = settings;
  const bytes = identity.groups.map(({ pageBytes }) => stagedBytes(identity.pageSize, pageBytes));
  const largest = Math.max(...bytes);
  const windowBytes = settings.windowBytes ?? Math.max(LEAST_WINDOW_BYTES, 2 * settings.worker.connections * largest);
  const window = new ByteWindow(windowBytes);
  if (window.capacity < largest) {
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      `windowBytes is ${windowBytes}, expected at least ${Math.ceil(largest / 4096) * 4096}, a page with its header`,
    );
  }
  const buffer = stagingBuffer(window.capacity);
  const print = fingerprint(identity);
  const staging = new RemoteStaging(window, new Uint8Array(buffer), pools, identity.pageSize, print, bytes);
  const tier = new RemoteTier(settings, print, staging, new RemoteLink({ ...settings.worker, staging: buffer }));
  await tier.begin();
  return tier;
}

function stagingBuffer(bytes: number): SharedArrayBuffer {
  try {
    return new SharedArrayBuffer(bytes);
  } catch (error) {
    const sentence = `windowBytes is ${bytes}, for which the host has no memory; ask for less`;
    throw new KvasirError("ERR_KVASIR_OUT_OF_MEMORY", sentence, { cause: error });
  }
}

export class RemoteTier implements TierDriver {
  readonly name = "remote";
  /** Without user and password. */
  readonly url: string;
  readonly #pageSize: number;
  readonly #numGroups: number;
  readonly #staging: RemoteStaging;
  readonly #link: RemoteLink;
  readonly #breaker: CircuitBreaker;
  readonly #requests: RemoteRequests;
  readonly #running: Set<Promise<unknown>> = new Set();
  readonly #stats: TierStats;
  #closing: Promise<void> | undefined;

  /** @internal */
  constructor(settings: RemoteSettings, print: Uint8Array, staging: RemoteStaging, link: RemoteLink) {
    this.url = settings.shownUrl;
    this.#pageSize = settings.identity.pageSize;
    this.#numGroups = settings.identity.groups.length;
    this.#staging = staging;
    this.#link = link;
    this.#breaker = new CircuitBreaker({
      ...settings.breaker,
      probe: () => this.#probe(),
      onOpen: (reason) => {
        const text = `The remote tier ${this.url} does not answer (${reason}); the cache runs on without it, and keeps trying`;
        queueMicrotask(() => settings.onWarning(text)); // what it throws is its own affair
      },
    });
    this.#requests = new RemoteRequests(link, this.#breaker, staging, print);
    const counts = { loads: 0, loadedBytes: 0, stores: 0, storedBytes: 0, misses: 0, damaged: 0, failures: 0, refused: 0 };
    this.#stats = { pages: 0, bytes: 0, capacityBytes: Number.POSITIVE_INFINITY, ...counts };
  }

  /** @internal Starts the client; returns when the server answered, or failed to. */
  async begin(): Promise<void> {
    await this.#link.start();
    const reply = await this.#link.request({ type: "ping" });
    if (reply.failure !== undefined) this.#breaker.open(reply.failure);
  }

  get #isUsable(): boolean {
    return this.#closing === undefined && this.#breaker.isClosed;
  }

  /** Whether the server is in use; false from when it stopped answering until it answers again. */
  get isConnected(): boolean {
    return this.#isUsable;
  }

  /** Bytes under way, those of aborted calls included, and the most that were at once. */
  get bytesInFlight(): number {
    return this.#staging.window.used;
  }

  get peakBytesInFlight(): number {
    return this.#staging.window.peak;
  }

  async lookup(group: number, keys: Uint32Array, signal?: AbortSignal): Promise<Uint8Array> {
    this.#checkGroup(group);
    const names = this.#requests.names(group, keys);
    const found = new Uint8Array(names.length);
    if (this.#isUsable) await this.#track(() => this.#requests.lookUp(names, found, signal));
    return found;
  }

  async load(batch: PageBatch, signal?: AbortSignal): Promise<Uint8Array> {
    const own = this.#copyOf(batch);
    const statuses = new Uint8Array(own.slots.length).fill(FAILED);
    if (this.#isUsable) await this.#track(() => this.#requests.load(own, statuses, signal));
    const stats = this.#stats;
    for (const status of statuses) {
      if (status === LOADED) {
        stats.loads++;
        stats.loadedBytes += this.#staging.pageBytes(own.group);
      } else if (status === MISSING) stats.misses++;
      else if (status === DAMAGED) stats.damaged++;
      else stats.failures++;
    }
    return statuses;
  }

  async store(batch: PageBatch, signal?: AbortSignal): Promise<Uint8Array> {
    const own = this.#copyOf(batch);
    const statuses = new Uint8Array(own.slots.length).fill(this.#isUsable ? FAILED : REFUSED);
    if (this.#isUsable) await this.#track(() => this.#requests.store(own, statuses, signal));
    const stats = this.#stats;
    for (const status of statuses) {
      if (status === STORED) {
        stats.stores++;
        stats.storedBytes += this.#staging.pageBytes(own.group);
        stats.pages++;
        stats.bytes += this.#staging.pageBytes(own.group);
      } else if (status === REFUSED) stats.refused++;
      else if (status === FAILED) stats.failures++;
    }
    return statuses;
  }

  async remove(group: number, keys: Uint32Array): Promise<void> {
    this.#checkGroup(group);
    const names = this.#requests.names(group, keys);
    if (names.length === 0 || !this.#isUsable) return;
    const count = Math.min(this.#stats.pages, await this.#track(() => this.#requests.delete(names)));
    this.#stats.pages -= count;
    this.#stats.bytes -= Math.min(this.#stats.bytes, count * this.#staging.pageBytes(group));
  }

  /** Pages and bytes are what this process wrote and did not remove since; what the server has room for is not known. */
  stats(): RemoteStats {
    return { ...this.#stats, copied: this.#requests.copied };
  }

  close(): Promise<void> {
    this.#closing ??= this.#end();
    return this.#closing;
  }

  /** Requests under way end by themselves, within their deadlines. */
  async #end(): Promise<void> {
    await Promise.allSettled(this.#running);
    this.#breaker.stop();
    await this.#link.close();
  }

  async #probe(): Promise<boolean> {
    try {
      if (!this.#link.isRunning) await this.#link.start();
    } catch {
      return false; // the next probe tries again
    }
    return (await this.#link.request({ type: "ping" })).failure === undefined;
  }

  /** Notes what `close` has to wait for. */
  async #track<T>(work: () => Promise<T>): Promise<T> {
    const running = work();
    this.#running.add(running);
    try {
      return await running;
    } finally {
      this.#running.delete(running);
    }
  }

  #checkGroup(group: number): void {
    if (Number.isInteger(group) && group >= 0 && group < this.#numGroups) return;
    const sentence = `group is ${describe(group)}, expected an integer from 0 to ${this.#numGroups - 1}`;
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", sentence);
  }

  /** The batch may change once a call has returned. */
  #copyOf({ group, keys, parents, tokens, slots }: PageBatch): PageBatch {
    this.#checkGroup(group);
    const count = slots.length;
    for (const [name, array, length] of [
      ["keys", keys, count * KEY_WORDS],
      ["parents", parents, count * KEY_WORDS],
      ["tokens", tokens, count * this.#pageSize],
    ] as const) {
      if (array.length === length) continue;
      const sentence = `${name} has ${array.length} entries, expected ${length} for ${count} slots`;
      throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", sentence);
    }
    return { group, keys: keys.slice(), parents: parents.slice(), tokens: tokens.slice(), slots: slots.slice() };
  }
}
