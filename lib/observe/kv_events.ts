/**
 * What happens to the sealed pages of a cache, for routers and dashboards: a numbered stream of events in a ring. A reader that missed some
 * asks again from its last number, and is told so when the ring no longer holds them; then it starts over from the pages that exist.
 *
 * Events are kept as words. Objects and hexadecimal keys are made only when somebody reads; until somebody does, an event costs a counter.
 */
import { KvasirError } from "../errors.js";
import { checkInteger } from "../options.js";

/** stored: a page can be found from now on. removed: it cannot any more. moved: other places hold it. cleared: all pages are gone. */
export const kvEventKinds = ["stored", "removed", "moved", "cleared"] as const;
export type KvEventKind = (typeof kvEventKinds)[number];

/** Places of a page, fastest first; an event names all that hold it as bits, in this order. */
export const kvTiers = ["hbm", "ddr", "disk", "remote"] as const;
export type KvTier = (typeof kvTiers)[number];

export interface KvEvent {
  /** Numbers rise by one; the first event of a stream has 1. */
  sequence: number;
  kind: KvEventKind;
  /** Layer group of the page. */
  group: number;
  /** The page's key, and that of the page or root before it, as hexadecimal digits, most significant first; empty for "cleared". */
  key: string;
  parent: string;
  /** Tiers that hold the page now. */
  tiers: KvTier[];
}

/** What a replay gives: all events from the asked one on, or, where the ring has lost some of them, the oldest number that it holds. */
export type KvReplay = { gap: false; events: KvEvent[]; next: number } | { gap: true; oldest: number; next: number };

export interface KvEventsOptions {
  /** Events that the ring holds, default 65536; 40 bytes each, allocated with the first reader. */
  capacity?: number;
}

export const keyWords = 4;
const keyAt = 1;
const parentAt: number = keyAt + keyWords;
/** Kind, group and tiers in one word, then key and parent. */
const eventWords: number = parentAt + keyWords;
const groupShift = 8;
const tierShift = 4;
const nibble = 15;
/** Events of one delivery to a subscriber. */
const batchSize = 4096;

export type KvListener = (replay: KvReplay) => void;

/**
 * A numbered stream of page events.
 *
 * @example
 * ```ts
 * const events = new KvEvents();
 * const stop = events.subscribe((batch) => {
 *   if (batch.gap) resynchronise();
 *   else for (const { kind, key, tiers } of batch.events) index.apply(kind, key, tiers);
 * });
 * const missed = events.replay(last + 1);
 * stop();
 * ```
 */
export class KvEvents {
  readonly capacity: number;
  #ring: Uint32Array | undefined;
  /** Number of the newest event. */
  #last = 0;
  /** Number of the first event that the ring kept. */
  #first = 1;
  /** The next event that each subscriber gets. */
  readonly #listeners: Map<KvListener, number> = new Map();
  #isScheduled = false;

  /** @throws ERR_KVASIR_INVALID_ARGUMENT */
  constructor({ capacity = 65536 }: KvEventsOptions = {}) {
    this.capacity = checkInteger("capacity", capacity, 1, 2 ** 24);
  }

  /** Number of the newest event; 0 before the first. */
  get last(): number {
    return this.#last;
  }

  /** Whether events are kept: since somebody first subscribed or called `record`. */
  get isRecording(): boolean {
    return this.#ring !== undefined;
  }

  /** Keeps events from now on, for a later `replay`. */
  record(): void {
    if (this.#ring !== undefined) return;
    this.#ring = new Uint32Array(this.capacity * eventWords);
    this.#first = this.#last + 1;
  }

  /**
   * Notes an event. `tiers` has bit i for `kvTiers[i]`; the keys are `keyWords` words at `at` and `parentAt`, read only where events are
   * kept.
   */
  add(
    kind: KvEventKind,
    group: number,
    tiers: number,
    keys: Uint32Array,
    at: number,
    parents: Uint32Array,
    parentsAt: number,
  ): void {
    this.#last++;
    const ring = this.#ring;
    if (ring === undefined) return;
    const slot = ((this.#last - 1) % this.capacity) * eventWords;
    ring[slot] = kvEventKinds.indexOf(kind) | (tiers << tierShift) | (group << groupShift);
    for (let i = 0; i < keyWords; i++) {
      ring[slot + keyAt + i] = keys[at + i] as number;
      ring[slot + parentAt + i] = parents[parentsAt + i] as number;
    }
    if (this.#listeners.size > 0) this.#schedule();
  }

  /** Notes that all pages of a group are gone. */
  clear(group: number): void {
    const none = new Uint32Array(keyWords);
    this.add("cleared", group, 0, none, 0, none, 0);
  }

  /**
   * Events from number `from` on, at most `limit` of them.
   * @throws ERR_KVASIR_INVALID_ARGUMENT for a number that no event has had or will have next
   */
  replay(from: number, limit: number = Number.POSITIVE_INFINITY): KvReplay {
    checkInteger("from", from, 1, this.#last + 1);
    const oldest = this.#ring === undefined ? this.#last + 1 : Math.max(this.#first, this.#last - this.capacity + 1);
    if (from < oldest) return { gap: true, oldest, next: this.#last + 1 };
    const next = Math.min(this.#last + 1, from + limit);
    const events = Array.from({ length: next - from }, (_, i) => this.#read(from + i));
    return { gap: false, events, next };
  }

  /**
   * Calls `listener` with what happens from now on, or from event `from` on, some at a time and never from within a cache operation. A
   * listener that is too slow for the ring gets a gap. Returns what ends it; a second call of that is a no-op.
   */
  subscribe(listener: KvListener, from: number = this.#last + 1): () => void {
    if (typeof listener !== "function")
      throw new KvasirError(
        "ERR_KVASIR_INVALID_ARGUMENT",
        "listener is not a function, expected one that takes a batch of events",
      );
    checkInteger("from", from, 1, this.#last + 1);
    this.record();
    const own: KvListener = (replay) => listener(replay);
    this.#listeners.set(own, from);
    if (from <= this.#last) this.#schedule();
    return () => {
      this.#listeners.delete(own);
    };
  }

  #schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    setImmediate(() => this.#deliver());
  }

  #deliver(): void {
    this.#isScheduled = false;
    for (const [listener, from] of [...this.#listeners]) {
      if (!this.#listeners.has(listener) || from > this.#last) continue;
      const batch = this.replay(from, batchSize);
      this.#listeners.set(listener, batch.next);
      if (batch.next <= this.#last) this.#schedule();
      try {
        listener(batch);
      } catch (error) {
        // A listener's error is its own: it must reach neither the cache nor the other listeners.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }

  #read(sequence: number): KvEvent {
    const ring = this.#ring as Uint32Array;
    const slot = ((sequence - 1) % this.capacity) * eventWords;
    const head = ring[slot] as number;
    const kind = kvEventKinds[head & nibble] as KvEventKind;
    const tiers = kvTiers.filter((_, i) => ((head >>> tierShift) & (1 << i)) !== 0);
    const isKeyed = kind !== "cleared";
    return {
      sequence,
      kind,
      group: head >>> groupShift,
      key: isKeyed ? hexKey(ring, slot + keyAt) : "",
      parent: isKeyed ? hexKey(ring, slot + parentAt) : "",
      tiers,
    };
  }
}

/** Key words, least significant first, as one hexadecimal number. */
export function hexKey(words: Uint32Array, at: number): string {
  let text = "";
  for (let i = keyWords - 1; i >= 0; i--) text += (words[at + i] as number).toString(16).padStart(8, "0");
  return text;
}
