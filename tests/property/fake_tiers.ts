/**
 * A made-up store with a tier below the device, over a cache that is larger than the device is said to be. It counts what is on the device
 * and refuses to hold more; what left it is overwritten until it comes back, late, and at times with its end lost.
 */
import type { ContextStore, HitTokens, Resumption } from "../../lib/cache/context_store.js";
import type { KvCache } from "../../lib/cache/kv_cache.js";
import type { Sequence } from "../../lib/cache/sequence.js";
import { KvasirError } from "../../lib/errors.js";
import type { ArrayStore } from "./array_store.js";
import type { FakeTime } from "./fake_engine.js";
import type { Random } from "./session_script.js";

interface Entry {
  /** "in": coming; its pages count already, "out": leaving; they still count. */
  place: "device" | "below" | "in" | "out";
  isSuspended: boolean;
  restingSince: number;
  /** Values of its tokens as they were below. */
  saved: number[];
  /** Tokens whose values below are those on the device. */
  clean: number;
  /** What the sequence is said to hold, token by token. */
  noted: number[];
}

export interface TierFaults {
  /** Share of the loads that lose the sequence's end, and that find no room though there is some. */
  lost: number;
  full: number;
}

export class FakeTiers implements ContextStore {
  readonly hasTiers = true;
  readonly devicePages: number;
  readonly problems: string[] = [];
  swaps = 0;
  readonly #cache: KvCache;
  readonly #pages: ArrayStore;
  readonly #time: FakeTime;
  readonly #random: Random;
  readonly #faults: TierFaults;
  readonly #entries = new Map<Sequence, Entry>();
  #hits = 0;

  constructor(cache: KvCache, pages: ArrayStore, devicePages: number, time: FakeTime, random: Random, faults: TierFaults) {
    this.devicePages = devicePages;
    this.#cache = cache;
    this.#pages = pages;
    this.#time = time;
    this.#random = random;
    this.#faults = faults;
  }

  freePages(): number {
    let used = 0;
    for (const [sequence, { place }] of this.#entries) {
      if (sequence.disposed) this.#entries.delete(sequence);
      else if (place !== "below") used += this.#rows(sequence);
    }
    if (used > this.devicePages) this.problems.push(`${used} of ${this.devicePages} pages on the device`);
    return this.devicePages - used;
  }

  availablePages(): number {
    const free = this.freePages();
    return this.#resting(true).reduce((sum, sequence) => sum + this.#rows(sequence), free);
  }

  /** Clean sequences leave at once, others by a copy. */
  async makeRoom(pages: number): Promise<number> {
    for (const sequence of this.#resting(true)) if (this.freePages() < pages) this.#leave(sequence);
    for (let next = this.#resting(false)[0]; next !== undefined && this.freePages() < pages; next = this.#resting(false)[0]) {
      await this.swapOut(next);
    }
    while (this.freePages() < pages && [...this.#entries.values()].some(({ place }) => place === "out"))
      await this.#time.after(1);
    return this.freePages();
  }

  async adopt(sequence: Sequence): Promise<number> {
    const entry = this.#entry(sequence);
    if (sequence.length > 0) this.problems.push("adopted into a sequence that holds tokens");
    entry.isSuspended = false;
    entry.place = "device";
    entry.clean = 0;
    entry.noted = [];
    await this.#time.after(this.#random());
    return 0;
  }

  noteTokens(sequence: Sequence, from: number, tokens: ArrayLike<number>): void {
    const { noted } = this.#entry(sequence);
    if (from > noted.length) this.problems.push(`noted from ${from}, of which ${noted.length} are known`);
    noted.length = from;
    for (let i = 0; i < tokens.length; i++) noted.push(tokens[i] as number);
    if (noted.length > sequence.length) this.problems.push(`${noted.length} tokens noted of ${sequence.length}`);
  }

  suspend(sequence: Sequence): void {
    const entry = this.#entry(sequence);
    if (entry.isSuspended) this.problems.push("suspended twice");
    entry.isSuspended = true;
    entry.restingSince = this.#time.now;
    entry.noted.length = Math.min(entry.noted.length, sequence.length);
  }

  missingPages(sequence: Sequence): number {
    return this.#entry(sequence).place === "below" ? this.#rows(sequence) : 0;
  }

  dirtyBytes(sequence: Sequence): number {
    return (sequence.length - Math.min(sequence.length, this.#entry(sequence).clean)) * 8;
  }

  resume(sequence: Sequence): Resumption {
    const entry = this.#entry(sequence);
    if (!entry.isSuspended) this.problems.push("resumed though it runs");
    entry.isSuspended = false;
    const rows = this.#rows(sequence);
    const bytes = entry.place === "below" ? rows : 0;
    const isLost = this.#random() < this.#faults.lost;
    const waits: number[] = [];
    const waitLayer = (_: unknown, layer: number): void => {
      waits.push(layer);
    };
    const isFull = this.freePages() < rows || this.#random() < this.#faults.full;
    if (entry.place === "below" && isFull) {
      entry.isSuspended = true;
      return { ready: Promise.reject(new KvasirError("ERR_KVASIR_OUT_OF_PAGES", `Need ${rows} pages`)), waitLayer };
    }
    // A copy to below that is under way ends, but frees nothing.
    if (entry.place === "out") entry.place = "device";
    if (entry.place === "device") return { ready: Promise.resolve({ tokens: sequence.length, bytes }), waitLayer };
    if (entry.place === "below" && !isLost) {
      // The copy's values are there for whoever waits for them in the stream's order: here, at once.
      entry.place = "device";
      this.#restore(sequence, entry);
      const ready = this.#time.after(1 + rows / 4).then(() => ({ tokens: sequence.length, bytes }));
      return { ready, placed: this.#random() < 0.5 ? Promise.resolve() : undefined, waitLayer };
    }
    entry.place = "in";
    return { ready: this.#comeLate(sequence, entry, bytes), waitLayer };
  }

  async swapOut(sequence: Sequence): Promise<{ bytes: number }> {
    const entry = this.#entry(sequence);
    if (!entry.isSuspended) this.problems.push("swapped out though it runs");
    const bytes = this.dirtyBytes(sequence);
    if (entry.place !== "device") return { bytes: 0 };
    entry.place = "out";
    await this.#time.after(1 + bytes / 100);
    if (!sequence.disposed && entry.place === "out") this.#leave(sequence);
    return { bytes };
  }

  lookAhead(): void {}

  hits(): HitTokens {
    return { below: this.#hits };
  }

  /** Called with whatever runs. */
  check(sequence: Sequence): void {
    const entry = this.#entry(sequence);
    if (entry.isSuspended || entry.place !== "device")
      this.problems.push(`runs while ${entry.place}, suspended ${entry.isSuspended}`);
    entry.clean = Math.min(entry.clean, sequence.length);
  }

  async #comeLate(sequence: Sequence, entry: Entry, bytes: number): Promise<{ tokens: number; bytes: number }> {
    await this.#time.after(1 + this.#rows(sequence) / 4);
    if (sequence.disposed) return { tokens: 0, bytes: 0 };
    entry.place = "device";
    this.#restore(sequence, entry);
    const lost = Math.floor(this.#random() * sequence.length);
    sequence.truncate(Math.min(sequence.length, lost));
    return { tokens: sequence.length, bytes };
  }

  #entry(sequence: Sequence): Entry {
    let entry = this.#entries.get(sequence);
    if (entry === undefined) {
      entry = { place: "device", isSuspended: true, restingSince: this.#time.now, saved: [], clean: 0, noted: [] };
      this.#entries.set(sequence, entry);
    }
    return entry;
  }

  #rows(sequence: Sequence): number {
    return this.#cache.groups[0]?.table.rowLength(sequence.row) ?? 0;
  }

  #resting(isClean: boolean): Sequence[] {
    return [...this.#entries]
      .filter(([sequence, { place, isSuspended, clean }]) => {
        return !sequence.disposed && place === "device" && isSuspended && clean >= sequence.length === isClean;
      })
      .sort(([, a], [, b]) => a.restingSince - b.restingSince)
      .map(([sequence]) => sequence);
  }

  #leave(sequence: Sequence): void {
    const entry = this.#entry(sequence);
    this.swaps++;
    entry.saved = this.#slots(sequence).map((slot) => this.#at(slot)[slot % this.#cache.pageSize] as number);
    entry.clean = sequence.length;
    entry.place = "below";
    for (const slot of this.#slots(sequence)) this.#at(slot)[slot % this.#cache.pageSize] = Number.NaN;
  }

  #restore(sequence: Sequence, { saved }: Entry): void {
    this.#hits += sequence.length;
    this.#slots(sequence).forEach((slot, i) => {
      this.#at(slot)[slot % this.#cache.pageSize] = saved[i] as number;
    });
  }

  #slots(sequence: Sequence): number[] {
    const slots = new Int32Array(sequence.length);
    this.#cache.slotMapping(0, sequence.row, 0, sequence.length, slots, 0);
    return [...slots];
  }

  #at(slot: number): Float64Array {
    return this.#pages.page(0, Math.floor(slot / this.#cache.pageSize));
  }
}
