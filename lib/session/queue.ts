/**
 * Who goes on, who waits and who gives way: pure decisions over the unfinished requests and the pages that there are.
 *
 * Progress: the oldest request of all is never made to give way, and it may take pages from everyone else, so it ends whenever the pool
 * holds it alone. Every other request becomes the oldest in time. A request's age raises its priority, so a stream of more important ones
 * cannot keep it waiting for ever.
 */

/** An unfinished request. */
export interface Candidate {
  /** Order of arrival. */
  readonly ticket: number;
  readonly priority: number;
  /** Milliseconds on the scheduler's clock. */
  readonly arrivedAt: number;
}

/** One that is on the device. */
export interface Running extends Candidate {
  /** Pages that its next step takes. */
  readonly need: number;
  /** Device pages that come free when it gives way. */
  readonly held: number;
  /** Pages that it may still take later, as far as room is kept for them. */
  readonly growth: number;
  /** Whether it has done too little since it last came back to give way again. */
  readonly isGuarded: boolean;
  /** Whether it may be asked to give way at all: not while its pages are on their way in. */
  readonly canYield: boolean;
}

/** One that waits for pages or for its turn. */
export interface Waiting extends Candidate {
  /** Device pages that it takes to go on, and those that it still has. */
  readonly need: number;
  readonly held: number;
  readonly growth: number;
  /** False while results or copies of its earlier time on the device are under way. */
  readonly isReady: boolean;
  /** How often others were let in before it. */
  readonly bypassed: number;
}

export interface Pages {
  /** Free now, less what is promised. */
  free: number;
  /** On their way to be free. */
  coming: number;
}

/** The priority of a request, raised by one for every `agingMs` since it arrived. */
export function agedPriority({ priority, arrivedAt }: Candidate, now: number, agingMs: number): number {
  return priority + Math.floor((now - arrivedAt) / agingMs);
}

/** The more important first, then the earlier. */
export function byRank(now: number, agingMs: number): (a: Candidate, b: Candidate) => number {
  return (a, b) => agedPriority(b, now, agingMs) - agedPriority(a, now, agingMs) || a.ticket - b.ticket;
}

/**
 * Finds pages for the next steps of the running requests, which come in the order of rank; `oldest` is the ticket of the oldest request of
 * all and goes first. Where pages lack even after `reclaimable` ones (of requests that do not run) were taken, requests of lower rank give way, the
 * last first. Returns them, and the pages to be reclaimed for the others.
 */
export function planGrowth<R extends Running>(
  running: readonly R[],
  pages: Pages & { reclaimable: number },
  oldest: number,
): { victims: R[]; lacking: number } {
  const order = [...running.filter(({ ticket }) => ticket === oldest), ...running.filter(({ ticket }) => ticket !== oldest)];
  const victims = new Set<R>();
  let supply = pages.free + pages.coming + pages.reclaimable;
  let granted = 0;
  for (const [place, request] of order.entries()) {
    if (victims.has(request) || request.need === 0) continue;
    while (request.need > supply) {
      const victim = pickVictim(order, place, victims);
      if (victim === undefined) break;
      victims.add(victim);
      supply += victim.held;
    }
    // Whoever comes after one that finds no page shall not take what that one waits for.
    if (request.need > supply) break;
    supply -= request.need;
    granted += request.need;
  }
  return { victims: [...victims], lacking: Math.max(0, granted - pages.free - pages.coming) };
}

/** The last one behind `place` that may give way; the first of all may take from guarded ones too. */
function pickVictim<R extends Running>(order: readonly R[], place: number, taken: ReadonlySet<R>): R | undefined {
  const behind = order.slice(place + 1).filter((request) => request.canYield && request.held > 0 && !taken.has(request));
  return behind.findLast(({ isGuarded }) => !isGuarded) ?? (place === 0 ? behind.at(-1) : undefined);
}

export interface AdmissionLimits {
  /** Requests that may still be let in. */
  slots: number;
  /** Pages to be left free for steps of those that run, once more than one does. */
  headroom: number;
  /** How often later requests may be let in before one that does not fit. */
  maxBypass: number;
  now: number;
  agingMs: number;
}

export interface Admission<W, R> {
  admit: W[];
  /** Waiting requests before which others are let in now. */
  bypassed: W[];
  /** Running requests that give way to a more important one that waits. */
  victims: R[];
  /** Pages to be reclaimed for the first one that would then fit, and who that is. */
  lacking: number;
  next: W | undefined;
}

/**
 * Lets waiting requests in, in the order of rank, as pages suffice for them, for a step of everyone who runs and for the headroom. The
 * first one that does not fit waits for pages: of resting sessions; failing those, of requests that wait behind it, or of less important
 * running ones. Before that, later requests that fit as things are may go before it, as often as `maxBypass` says: those whose pages are
 * still there, which it would cost to bring back, and any where resting sessions have not enough for it.
 */
export function planAdmission<W extends Waiting, R extends Running>(
  waiting: readonly W[],
  running: readonly R[],
  pages: Pages,
  reclaimable: (request: W) => { resting: number; waiting: number },
  limits: AdmissionLimits,
): Admission<W, R> {
  const from = { running, coming: pages.coming, reclaimable, limits };
  const plan: Admission<W, R> = { admit: [], bypassed: [], victims: [], lacking: 0, next: undefined };
  let { free } = pages;
  let headroom = limits.headroom + running.reduce((sum, { growth }) => sum + growth, 0);
  let isAlone = running.length === 0;
  let blocked: { request: W; lacking: number; canBeServed: boolean } | undefined;
  for (const request of waiting) {
    if (plan.admit.length >= limits.slots) break;
    if (blocked !== undefined && request.priority < blocked.request.priority) continue;
    if (!request.isReady) {
      if (blocked === undefined) return plan;
      continue;
    }
    const room = isAlone ? 0 : headroom + request.growth;
    const lacking = request.need + room - free;
    if (lacking <= 0) {
      if (blocked?.canBeServed === true && request.held === 0) continue;
      plan.admit.push(request);
      free -= request.need;
      headroom += request.growth;
      isAlone = false;
      if (blocked !== undefined) plan.bypassed = [blocked.request];
    } else if (blocked === undefined) {
      if (request.bypassed >= limits.maxBypass) return makeWayFor(request, lacking, plan, from);
      blocked = { request, lacking, canBeServed: lacking <= pages.coming + reclaimable(request).resting };
    }
  }
  if (blocked === undefined || plan.bypassed.length > 0 || plan.admit.length >= limits.slots) return plan;
  return makeWayFor(blocked.request, blocked.lacking, plan, from);
}

/** Plans where the pages that a request lacks shall come from, if they can. */
function makeWayFor<W extends Waiting, R extends Running>(
  request: W,
  lacking: number,
  plan: Admission<W, R>,
  from: {
    running: readonly R[];
    coming: number;
    reclaimable: (request: W) => { resting: number; waiting: number };
    limits: AdmissionLimits;
  },
): Admission<W, R> {
  const { resting, waiting } = from.reclaimable(request);
  const supply = from.coming + resting + waiting;
  if (lacking > supply) plan.victims = lessImportant(request, from.running, lacking - supply, from.limits);
  if (lacking > supply && plan.victims.length === 0) return plan;
  plan.next = request;
  plan.lacking = Math.max(0, lacking - from.coming);
  return plan;
}

/** Running requests of lower priority than the waiting one's own, the last first, that hold `pages` together; none if they do not. */
function lessImportant<R extends Running>(request: Waiting, running: readonly R[], pages: number, limits: AdmissionLimits): R[] {
  const victims: R[] = [];
  let found = 0;
  const oldest = Math.min(...running.map(({ ticket }) => ticket));
  for (const candidate of running.toReversed()) {
    if (found >= pages) break;
    const isLess = agedPriority(candidate, limits.now, limits.agingMs) < request.priority;
    if (!isLess || !candidate.canYield || candidate.isGuarded || candidate.ticket === oldest) continue;
    victims.push(candidate);
    found += candidate.held;
  }
  return found >= pages ? victims : [];
}
