/** Many sessions over one model: continuous batching, admission, preemption, fairness. */
import { type ContextStore, DeviceOnlyStore, type HitTokens } from "../cache/context_store.js";
import { KvasirError } from "../errors.js";
import type { Sampling } from "../model/decode_program.js";
import type { Model } from "../model/model.js";
import { checkInteger, checkOptions } from "../options.js";
import type { FirstRates } from "./cost.js";
import { type Engine, ModelEngine } from "./engine.js";
import type { LoopOptions } from "./floor.js";
import { Loop } from "./loop.js";
import { Session, type SessionOptions } from "./session.js";
import type { Tally } from "./tally.js";

export interface SchedulerOptions {
  /** Most requests on the device at a time; default 32. */
  maxBatch?: number | undefined;
  /** Most tokens that a pass reads while other requests decode: what a decode step may wait for. Default 512. */
  prefillTokens?: number | undefined;
  /** Milliseconds of age that raise a request's priority by one; default 10000. */
  agingMs?: number | undefined;
  /** Pages kept free at most for the later tokens of each running request when another one is let in; default 2. */
  growthPages?: number | undefined;
  /** Share of the device's pages that is kept free then; default 0.01. */
  watermark?: number | undefined;
  /** How often later requests that fit may go before one that does not; default 4. */
  maxBypass?: number | undefined;
  /** New tokens that a request which gave way has to get before it gives way again; default 32. */
  guardTokens?: number | undefined;
  /** First guesses of rates, until they were measured. */
  rates?: FirstRates | undefined;
  /** Where pages are while their sessions do not run; default the model's tiers, and without any they stay or are recomputed. */
  store?: ContextStore | undefined;
}

export interface SchedulerStats extends Tally {
  sessions: number;
  running: number;
  waiting: number;
  /** Tokens of resumed sessions by where they were found, as the store counts them. */
  hits: HitTokens;
  /** Measured so far. */
  prefillTokensPerSecond: number;
  bytesOutPerSecond: number;
  bytesInPerSecond: number;
}

/** What sessions use of their scheduler. @internal */
export interface SchedulerParts {
  readonly engine: Engine;
  readonly loop: Loop;
  /** Absent in tests of the scheduling alone. */
  readonly model: Model | undefined;
  clock(): number;
  nextTicket(): number;
  checkTokens(tokens: ArrayLike<number>): void;
  checkSampling(sampling: Sampling): void;
  adopt(options: SessionOptions, make: (options: SessionOptions) => Session): Session;
  forget(session: Session): void;
}

/** @internal */
export interface SchedulerBase {
  engine: Engine;
  store: ContextStore;
  model?: Model | undefined;
  clock?: () => number;
}

/**
 * Runs the requests of many sessions on one model. Requests are let in by priority and age as pages suffice; their steps run as one batch,
 * whose members change between steps, and texts are read in pieces between them. Where pages run out the youngest request gives way: its
 * pages are copied off the device or dropped and read again, whichever costs less. The oldest request never gives way.
 *
 * The model's cache may hold other sequences besides; the scheduler works with the pages that they leave.
 *
 * @example
 * ```ts
 * import { loadModel, openDevice, Scheduler } from "kvasir";
 *
 * const device = openDevice();
 * const model = await loadModel(device, "examples/model", { cacheTokens: 4096 });
 * const scheduler = new Scheduler(model);
 * const session = scheduler.open();
 * await session.prefill("It was a dark night, and the ship");
 * for await (const { text } of session.ask(" was", { maxTokens: 32 })) process.stdout.write(text);
 * await scheduler.close();
 * model.dispose();
 * device.dispose();
 * ```
 */
export class Scheduler implements AsyncDisposable {
  readonly #base: SchedulerBase;
  readonly #loop: Loop;
  readonly #parts: SchedulerParts;
  readonly #sessions: Set<Session> = new Set();
  #tickets = 0;
  #closed: Promise<void> | undefined;

  /** @throws ERR_KVASIR_UNKNOWN_OPTION, ERR_KVASIR_INVALID_ARGUMENT */
  constructor(model: Model, options: SchedulerOptions = {}) {
    const loopOptions = checkedOptions(options);
    const base = schedulerBase(model, options);
    loopOptions.clock = base.clock ?? loopOptions.clock;
    loopOptions.maxBatch = Math.min(loopOptions.maxBatch, base.engine.passTokens);
    this.#base = base;
    this.#loop = new Loop(base.engine, base.store, loopOptions);
    this.#parts = {
      engine: base.engine,
      loop: this.#loop,
      model: base.model,
      clock: loopOptions.clock,
      nextTicket: () => this.#tickets++,
      checkTokens: (tokens) => base.model?.runner.checkTokens(tokens),
      checkSampling: (sampling) => base.model?.runner.checkSampling(sampling),
      adopt: (settings, make) => this.#adopt(settings, make),
      forget: (session) => this.#sessions.delete(session),
    };
  }

  /** A new session with an empty context. @throws ERR_KVASIR_UNKNOWN_OPTION, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_DISPOSED */
  open(options: SessionOptions = {}): Session {
    checkOptions("open", options, ["salt", "priority", "sampling"]);
    return this.#adopt(options, (settings) => new Session(this.#parts, settings));
  }

  stats(): SchedulerStats {
    const { tally, cost, store } = this.#loop.floor;
    return {
      ...tally,
      sessions: this.#sessions.size,
      ...this.#loop.counts(),
      hits: store.hits(),
      prefillTokensPerSecond: cost.prefill.perSecond,
      bytesOutPerSecond: cost.out.perSecond,
      bytesInPerSecond: cost.in.perSecond,
    };
  }

  /** Closes all sessions; resolves when their pages are free. The model stays its owner's. A no-op the second time. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    await Promise.all([...this.#sessions].map((session) => session.close()));
    await this.#loop.idle();
    this.#base.engine.dispose();
  }

  #adopt(options: SessionOptions, make: (options: SessionOptions) => Session): Session {
    if (this.#closed !== undefined) throw new KvasirError("ERR_KVASIR_DISPOSED", "Scheduler was closed; make another");
    if (options.sampling !== undefined) {
      checkOptions("sampling", options.sampling, ["temperature", "topK", "topP", "seed"]);
      this.#parts.checkSampling(options.sampling);
    }
    checkInteger("priority", options.priority ?? 0, -1000, 1000);
    if (options.salt !== undefined && typeof options.salt !== "string") {
      throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `salt is ${typeof options.salt}, expected a string`);
    }
    const session = make(options);
    this.#sessions.add(session);
    return session;
  }
}

/** Tests put an engine of their own in the model's place. */
function schedulerBase(model: Model | SchedulerBase, options: SchedulerOptions): SchedulerBase {
  if ("engine" in model) return model;
  return { engine: new ModelEngine(model), store: options.store ?? model.tiers ?? new DeviceOnlyStore(model.cache), model };
}

function checkedOptions(options: SchedulerOptions): LoopOptions {
  checkOptions("Scheduler", options, [
    "maxBatch",
    "prefillTokens",
    "agingMs",
    "growthPages",
    "watermark",
    "maxBypass",
    "guardTokens",
    "rates",
    "store",
  ]);
  checkOptions("rates", options.rates, ["prefillTokens", "bytesOut", "bytesIn"]);
  const { watermark = 0.01, rates = {} } = options;
  if (!(watermark >= 0 && watermark < 1)) {
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `watermark is ${watermark}, expected a number from 0 to below 1`);
  }
  for (const [name, rate] of Object.entries(rates)) {
    if (rate === undefined || (rate > 0 && Number.isFinite(rate))) continue;
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `rates.${name} is ${rate}, expected a finite number above 0`);
  }
  return {
    maxBatch: checkInteger("maxBatch", options.maxBatch ?? 32, 1),
    prefillTokens: checkInteger("prefillTokens", options.prefillTokens ?? 512, 1),
    agingMs: checkInteger("agingMs", options.agingMs ?? 10_000, 1),
    growthPages: checkInteger("growthPages", options.growthPages ?? 2, 0),
    watermark,
    maxBypass: checkInteger("maxBypass", options.maxBypass ?? 4, 0),
    guardTokens: checkInteger("guardTokens", options.guardTokens ?? 32, 0),
    rates,
    clock: () => performance.now(),
  };
}
