/**
 * A made-up model for the scheduler, with simulated time, over a real cache whose pages are plain arrays. What it writes for a token
 * depends on everything before it as the pages hold it. Its next token depends on all that, on the seed and on the number of the draw. So
 * whatever a scheduler forgets, repeats or mixes up changes an answer.
 */
import { DeviceOnlyStore } from "../../lib/cache/context_store.js";
import { KvCache } from "../../lib/cache/kv_cache.js";
import type { LayerGroup } from "../../lib/cache/page_format.js";
import type { Sequence } from "../../lib/cache/sequence.js";
import type { Model, Sampling, Stream } from "../../lib/index.js";
import type { Engine, Pass, Piece } from "../../lib/session/engine.js";
import { Scheduler, type SchedulerBase, type SchedulerOptions } from "../../lib/session/scheduler.js";
import { ArrayStore } from "./array_store.js";
import { FakeTiers, type TierFaults } from "./fake_tiers.js";
import type { Random } from "./session_script.js";

const groups: LayerGroup[] = [{ layers: [0], numKvHeads: 1, headDim: 8, dtype: "f32" }];
export const fakeVocab = 40;

interface Member {
  sequence: Sequence;
  sampling: Sampling;
  draw: number;
  token: number;
}

function mix(hash: number, value: number): number {
  let x = Math.imul(hash ^ value, 0x9e3779b1);
  x ^= x >>> 15;
  x = Math.imul(x, 0x85ebca77);
  return (x ^ (x >>> 13)) >>> 0;
}

/** Completions in the order of simulated time; one is let out at a time, when nothing else is left to do. */
export class FakeTime {
  now = 0;
  #events: { at: number; order: number; resolve: () => void }[] = [];
  #count = 0;
  #isPumping = false;

  /** Resolves `ms` from now. */
  after(ms: number): Promise<void> {
    return this.at(this.now + ms);
  }

  at(at: number): Promise<void> {
    return new Promise((resolve) => {
      this.#events.push({ at, order: this.#count++, resolve });
      this.#events.sort((a, b) => a.at - b.at || a.order - b.order);
      if (!this.#isPumping) this.#pump();
    });
  }

  #pump(): void {
    this.#isPumping = true;
    setImmediate(() => {
      const event = this.#events.shift();
      if (event !== undefined) {
        this.now = Math.max(this.now, event.at);
        event.resolve();
      }
      if (this.#events.length > 0) this.#pump();
      else this.#isPumping = false;
    });
  }
}

export interface FakeOptions {
  pageSize?: number;
  maxPages: number;
  passTokens?: number;
}

export class FakeEngine implements Engine {
  readonly cache: KvCache;
  readonly passTokens: number;
  readonly time: FakeTime;
  /** Called after everything that was enqueued. */
  onWork: (() => void) | undefined;
  /** Called with every sequence that runs. */
  onRun: ((sequence: Sequence) => void) | undefined;
  readonly pages: ArrayStore;
  readonly #members = new Set<Member>();
  #deviceFreeAt = 0;

  constructor(time: FakeTime, options: FakeOptions) {
    const { pageSize = 16, maxPages } = options;
    this.time = time;
    this.passTokens = options.passTokens ?? 48;
    this.pages = new ArrayStore(1, maxPages, pageSize);
    this.cache = new KvCache({ groups, pageSize, maxPages }, this.pages);
  }

  get batchSize(): number {
    return this.#members.size;
  }

  createSequence(): Sequence {
    return this.cache.createSequence();
  }

  pass(pieces: readonly Piece[], beforeLayer?: (stream: Stream, layer: number) => void): Pass {
    const total = pieces.reduce((sum, { tokens }) => sum + tokens.length, 0);
    if (total === 0 || total > this.passTokens) throw new RangeError(`pass of ${total} tokens`);
    if (new Set(pieces.map(({ sequence }) => sequence)).size < pieces.length) throw new RangeError("two pieces of one sequence");
    beforeLayer?.(undefined as unknown as Stream, 0);
    for (const { sequence, tokens } of pieces) this.#write(sequence, tokens);
    const ends = pieces.filter(({ sampling }) => sampling !== undefined) as (Piece & { sampling: Sampling })[];
    const chosen = ends.map(({ sequence, sampling }) => this.#choose(sequence, sampling, 0));
    this.onWork?.();
    return {
      tokens: this.#later(1 + total / 10).then(() => chosen),
      join: (index) => {
        const { sequence, sampling } = ends[index] as Piece & { sampling: Sampling };
        return this.join(sequence, sampling, 0, chosen[index] as number);
      },
      release: () => undefined,
    };
  }

  join(sequence: Sequence, sampling: Sampling, draw: number, token: number): object {
    const member = { sequence, sampling, draw, token };
    this.#members.add(member);
    return member;
  }

  leave(member: object): void {
    if (!this.#members.delete(member as Member)) throw new RangeError("left twice");
  }

  step(): { members: readonly object[]; tokens: Promise<number[]> } {
    const members = [...this.#members];
    const rows = members.map(({ sequence }) => sequence.row);
    this.cache.reserve(
      rows,
      rows.map(() => 1),
    );
    const tokens = members.map((member) => {
      this.#write(member.sequence, [member.token]);
      member.draw++;
      member.token = this.#choose(member.sequence, member.sampling, member.draw);
      return member.token;
    });
    this.onWork?.();
    return { members, tokens: this.#later(1 + members.length / 20).then(() => tokens) };
  }

  dispose(): void {
    this.#members.clear();
  }

  async #later(ms: number): Promise<void> {
    this.#deviceFreeAt = Math.max(this.#deviceFreeAt, this.time.now) + ms;
    await this.time.at(this.#deviceFreeAt);
  }

  /** A value per token, from what the pages hold before it. */
  #write(sequence: Sequence, tokens: ArrayLike<number>): void {
    this.onRun?.(sequence);
    const from = sequence.length;
    const count = tokens.length;
    const slots = new Int32Array(count);
    this.cache.slotMapping(0, sequence.row, from, count, slots, 0);
    let hash = this.#hash(sequence);
    for (let i = 0; i < count; i++) {
      const value = mix(hash, tokens[i] as number);
      this.#place(slots[i] as number, value);
      hash = mix(hash, value);
    }
    sequence.commit(count);
  }

  #place(slot: number, value: number): void {
    const { pageSize } = this.cache;
    this.pages.page(0, Math.floor(slot / pageSize))[slot % pageSize] = value;
  }

  /** Of everything in the sequence's pages. Each value stands for all before it too, but every one is looked at: a hole must show. */
  #hash(sequence: Sequence): number {
    const { pageSize } = this.cache;
    const slots = new Int32Array(sequence.length);
    this.cache.slotMapping(0, sequence.row, 0, sequence.length, slots, 0);
    let hash = 1;
    for (const slot of slots) {
      const value = this.pages.page(0, Math.floor(slot / pageSize))[slot % pageSize] as number;
      hash = mix(hash, Number.isNaN(value) ? 77 : value);
    }
    return hash;
  }

  #choose(sequence: Sequence, { seed = 0 }: Sampling, draw: number): number {
    return mix(mix(this.#hash(sequence), seed), draw) % fakeVocab;
  }
}

/** A scheduler over a made-up model; `devicePages` puts a made-up tier below that many of its pages. */
export function fakeScheduler(
  fake: FakeOptions & { devicePages?: number; faults?: TierFaults; random?: Random },
  options: SchedulerOptions = {},
): { scheduler: Scheduler; engine: FakeEngine; time: FakeTime; tiers: FakeTiers | undefined } {
  const time = new FakeTime();
  const engine = new FakeEngine(time, fake);
  const { devicePages, faults = { lost: 0, full: 0 }, random = Math.random } = fake;
  const tiers =
    devicePages === undefined ? undefined : new FakeTiers(engine.cache, engine.pages, devicePages, time, random, faults);
  engine.onRun = (sequence) => tiers?.check(sequence);
  const base: SchedulerBase = { engine, store: tiers ?? new DeviceOnlyStore(engine.cache), clock: () => time.now };
  return { scheduler: new Scheduler(base as unknown as Model, options), engine, time, tiers };
}
