/** What the parts of the scheduler's loop share. */
import type { ContextStore } from "../cache/context_store.js";
import type { CostModel, FirstRates } from "./cost.js";
import type { Engine } from "./engine.js";
import type { Request, SessionState } from "./request.js";
import type { Residency } from "./residency.js";
import type { Tally } from "./tally.js";

export interface LoopOptions {
  /** Most requests on the device at a time. */
  maxBatch: number;
  /** Most tokens that a pass reads while others decode. */
  prefillTokens: number;
  /** Milliseconds that raise a request's priority by one. */
  agingMs: number;
  /** Pages kept free at most for the later tokens of each running request when another is let in. */
  growthPages: number;
  /** Share of the device's pages that is kept free then. */
  watermark: number;
  /** How often later requests that fit go before one that does not. */
  maxBypass: number;
  /** New tokens that a request which gave way has to get before it gives way again. */
  guardTokens: number;
  rates: FirstRates;
  /** Milliseconds. */
  clock: () => number;
}

export interface Floor {
  readonly engine: Engine;
  readonly store: ContextStore;
  readonly options: LoopOptions;
  readonly cost: CostModel;
  readonly tally: Tally;
  readonly residency: Residency;
  readonly sessions: ReadonlySet<SessionState>;
  /** In the order of arrival. */
  readonly unfinished: ReadonlySet<Request>;
}

/** Pages that are kept for requests on their way in. */
export function promisedPages({ unfinished }: Floor): number {
  let sum = 0;
  for (const { promised } of unfinished) sum += promised;
  return sum;
}
