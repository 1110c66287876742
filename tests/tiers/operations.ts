/** What can be done to a world, by name. An operation takes numbers, which it maps to what there is, so that any trace can be run. */
import { KvasirError } from "../../lib/errors.js";
import { inGroup, POISON } from "./content.js";
import type { PageMemory } from "./machine.js";
import { faults } from "./memory_tier.js";
import { prompts } from "./prompts.js";
import { type Doubt, type Entry, pageSize, salts, type World } from "./world.js";

export const codeOf = (error: unknown): string | undefined => (error instanceof KvasirError ? error.code : undefined);

/** Runs `act`; true if it threw one of the codes. */
export function refuses(act: () => void, ...codes: string[]): boolean {
  try {
    act();
    return false;
  } catch (error) {
    if (codes.includes(codeOf(error) ?? "")) return true;
    throw error;
  }
}

/** The token after a text: mostly the next one of a sequence's prompt, as long as it began like that, or one of few. */
function nextToken({ text, id }: Entry, a: number, i: number): number {
  if (a % 8 !== 0) {
    const prompt = prompts[id % prompts.length] as Int32Array;
    if (text.length < prompt.length && text.common(prompt, text.length) === text.length) return prompt[text.length] as number;
  }
  return a % 3 === 0 ? (a + i * 7) & 3 : text.length & 1;
}

/** Tells the cache of the tokens that it was not told of. */
export function note(world: World, entry: Entry): void {
  const { text, sequence } = entry;
  if (entry.noted >= text.length) return;
  world.manager.noteTokens(sequence, entry.noted, text.tokens.slice(entry.noted, text.length));
  entry.noted = text.length;
  entry.ahead = undefined;
}

/** One step of a model for several sequences: each reads what it has and writes what follows. */
export function step(world: World, entries: readonly Entry[], counts: readonly number[], a: number): boolean {
  const { cache } = world;
  const rows = entries.map(({ sequence }) => sequence.row);
  if (refuses(() => cache.reserve(rows, counts), "ERR_KVASIR_OUT_OF_PAGES")) return false;
  entries.forEach((entry, i) => {
    const count = counts[i] as number;
    const { text, sequence } = entry;
    const seen = world.read(entry);
    const from = text.length;
    for (let k = 0; k < count; k++) text.push(k === 0 && entry.ahead !== undefined ? entry.ahead : nextToken(entry, a, k));
    for (const group of cache.groups.keys()) {
      const mapping = new Int32Array(count);
      cache.slotMapping(group, sequence.row, from, count, mapping, 0);
      const words = text.hashes.slice(from, from + count);
      const memory = world.device[group] as PageMemory;
      world.machine.compute(() => {
        for (let k = 0; k < count; k++)
          memory.words[mapping[k] as number] = seen.isPoison ? POISON : inGroup(words[k] as number, group);
      });
    }
    sequence.commit(count);
  });
  return true;
}

const isBusy = ({ returning, adopting }: Entry): boolean => returning > 0 || adopting !== undefined;

function append(world: World, number: number, count: number, a: number, mode: number): void {
  const entry = world.pick(number);
  if (entry === undefined || isBusy(entry)) return;
  if (entry.state !== "running") {
    if (world.cache.isRunning(entry.sequence.row)) return; // it does, and only we have not heard of it yet
    // Whoever adds to a sequence that does not run is told so.
    const isRefused = refuses(() => entry.sequence.reserve(1), "ERR_KVASIR_INVALID_ARGUMENT");
    if (!isRefused) world.fail(`a suspended sequence ${entry.id} took tokens`);
    return;
  }
  if (!step(world, [entry], [count], a)) return;
  if (mode < 5) note(world, entry);
}

/** Takes pages for tokens that may never come. */
function reserve(world: World, number: number, count: number): void {
  const entry = world.pick(number);
  if (entry === undefined || isBusy(entry) || entry.state !== "running") return;
  refuses(() => entry.sequence.reserve(count), "ERR_KVASIR_OUT_OF_PAGES");
}

function appendMany(world: World, count: number, a: number): void {
  const entries = world.entries.filter((entry) => entry.state === "running" && !isBusy(entry)).slice(0, 1 + (a % 4));
  if (entries.length === 0) return;
  const counts = entries.map((_, i) => (count + i) % 20);
  if (!step(world, entries, counts, a)) return;
  for (const entry of entries) if ((a + entry.id) % 4 !== 0) note(world, entry);
}

function truncate(world: World, number: number, drop: number): void {
  const entry = world.pick(number);
  if (entry === undefined) return;
  if (entry.adopting !== undefined) {
    entry.sequence.truncate(Math.max(0, entry.sequence.length - drop)); // its text is what is there in the end
    return;
  }
  const length = Math.max(0, entry.text.length - drop);
  if (refuses(() => entry.sequence.truncate(length), "ERR_KVASIR_INVALID_ARGUMENT")) return;
  cutText(entry, length);
}

export function cutText(entry: Entry, length: number): void {
  if (length < entry.text.length) entry.ahead = undefined;
  entry.text.truncate(length);
  entry.noted = Math.min(entry.noted, length);
}

function fork(world: World, number: number, place: number): void {
  const entry = world.pick(number);
  if (entry === undefined || !world.isFree(place)) return;
  const child = world.enter(place, entry.sequence.fork(), entry.text.clone(), entry.state);
  if (entry.returning > 0) child.state = "away"; // it waits for its pages as its parent does
  if (entry.adopting !== undefined)
    child.state = world.cache.isRunning(child.sequence.row) && child.sequence.length === 0 ? "running" : "away";
  // A sequence that is being filled has some of its tokens, and nobody said which.
  for (let i = 0; entry.adopting !== undefined && i < child.sequence.length; i++) child.text.push(entry.adopting[i] as number);
  child.noted = entry.adopting === undefined ? entry.noted : child.text.length;
  child.doubts = entry.doubts.filter(({ state }) => state !== "came");
  child.isPoisoned = entry.isPoisoned;
}

function dispose(world: World, number: number): void {
  const entry = world.pick(number);
  if (entry === undefined) return;
  const { sequence } = entry;
  world.leave(entry);
  sequence.dispose();
}

/** A signal that a later operation may use; sometimes. */
function signalOf(world: World, a: number): AbortSignal | undefined {
  if (a % 8 !== 0) return undefined;
  const controller = new AbortController();
  world.controllers.push(controller);
  if (world.controllers.length > 6) world.controllers.shift();
  return controller.signal;
}

/** Whether the call may end so: the sequence is gone, the signal fired, memory is full, or a copy failed. */
export function mayEnd(world: World, entry: Entry, signal: AbortSignal | undefined): (error: unknown) => boolean {
  return (error) => {
    if (signal?.aborted === true && error === signal.reason) return true;
    const code = codeOf(error);
    if (code === "ERR_KVASIR_DISPOSED") return entry.sequence.disposed;
    if (code === "ERR_KVASIR_DEVICE_LOST") return world.moveFaults > 0;
    return code === "ERR_KVASIR_OUT_OF_PAGES";
  };
}

/** Whether a call may end so: its sequence is gone. */
const isGone =
  (entry: Entry) =>
  (error: unknown): boolean =>
    codeOf(error) === "ERR_KVASIR_DISPOSED" && entry.sequence.disposed;

/** Compares an entry that is back with its text; tokens may be fewer where pages can be lost. */
export function cameBack(world: World, entry: Entry): void {
  const { length } = entry.sequence;
  const had = entry.text.length;
  if (length !== had) {
    const losses = world.tiers.reduce((sum, tier) => sum + tier.losses, 0);
    if (length > had) world.fail(`sequence ${entry.id} grew from ${had} to ${length} tokens`);
    else if (losses === 0) world.fail(`sequence ${entry.id} of ${had} tokens lost all from ${length}`);
    else if (length % pageSize !== 0) world.fail(`sequence ${entry.id} was cut to ${length} tokens, not at a page`);
    cutText(entry, Math.min(length, had));
    world.deeds.cut++;
  }
  world.read(entry);
}

export function resume(world: World, entry: Entry, signal: AbortSignal | undefined, told?: (error?: unknown) => void): void {
  const { suspensions } = entry;
  const resumption = world.manager.resume(entry.sequence, { signal });
  const doubt: Doubt = { state: "open" };
  const isWanted = (): boolean => !entry.sequence.disposed && entry.state !== "broken" && entry.suspensions === suspensions;
  const refused = (error: unknown): boolean => {
    const isSuspended = codeOf(error) === "ERR_KVASIR_DISPOSED" && entry.suspensions !== suspensions;
    return isSuspended || mayEnd(world, entry, signal)(error);
  };
  entry.returning++;
  world.track(
    "resume",
    resumption.placed ?? resumption.ready.then(() => undefined),
    () => {
      entry.returning--;
      if (!isWanted()) return;
      if (world.config.sabotage !== "no-hold") resumption.waitLayer();
      entry.state = "running";
      entry.doubts = [...entry.doubts.filter(({ state }) => state !== "came"), doubt];
      cameBack(world, entry);
    },
    (error) => {
      entry.returning--;
      return refused(error);
    },
  );
  world.track(
    "readiness",
    resumption.ready,
    () => {
      doubt.state = "came";
      world.deeds.resumed++;
      told?.();
    },
    (error) => {
      if (codeOf(error) === "ERR_KVASIR_DEVICE_LOST") {
        doubt.state = "lost";
        entry.state = "broken";
        for (const other of world.entries) if (other.doubts.includes(doubt)) other.state = "broken";
      }
      told?.(error);
      world.deeds.refused++;
      return refused(error);
    },
  );
}

export function adopt(
  world: World,
  entry: Entry,
  tokens: Int32Array,
  signal?: AbortSignal,
  told?: (count: number) => void,
): void {
  entry.adopting = tokens;
  world.track(
    "adopt",
    world.manager.adopt(entry.sequence, tokens, { signal }),
    (given) => {
      entry.adopting = undefined;
      if (entry.sequence.disposed) return;
      const count = entry.sequence.length; // fewer where it was truncated meanwhile
      if (count > given || given >= Math.max(1, tokens.length))
        world.fail(`adopt of ${tokens.length} tokens gave ${given}, and ${count} are in`);
      for (let i = 0; i < count; i++) entry.text.push(tokens[i] as number);
      entry.noted = count;
      if (count > 0) world.deeds.adopted++;
      world.read(entry);
      told?.(count);
    },
    (error) => {
      entry.adopting = undefined;
      entry.state = "broken";
      return codeOf(error) !== "ERR_KVASIR_OUT_OF_PAGES" && mayEnd(world, entry, signal)(error);
    },
  );
}

function swapOut(world: World, number: number): void {
  const entry = world.pick(number);
  if (entry === undefined || entry.adopting !== undefined) return;
  entry.state = "away";
  entry.suspensions++;
  world.track("swapOut", world.manager.swapOut(entry.sequence), () => undefined, isGone(entry));
}

function suspend(world: World, number: number): void {
  const entry = world.pick(number);
  if (entry === undefined || entry.adopting !== undefined) return;
  world.manager.suspend(entry.sequence);
  entry.state = "away";
  entry.suspensions++;
}

/** Most share one salt. */
const saltOf = (number: number): number => Math.max(0, (number % (2 * salts)) - salts);

function openAndAdopt(world: World, a: number, b: number, c: number): void {
  if (!world.isFree(a)) return;
  const prompt = prompts[c % prompts.length] as Int32Array;
  const tokens = prompt.slice(0, 1 + (b % prompt.length));
  if (c % 7 === 0) tokens[c % tokens.length] = (a + b) & 3;
  adopt(world, world.open(a, saltOf(b)), tokens, signalOf(world, b));
}

function pin(world: World, number: number): void {
  const entry = world.pick(number);
  if (entry === undefined || isBusy(entry) || world.pins.length >= 2) return;
  world.pins.push(world.manager.pin(entry.sequence));
}

function noteAhead(world: World, number: number, a: number): void {
  const entry = world.pick(number);
  if (entry === undefined || isBusy(entry)) return;
  note(world, entry);
  entry.ahead = a & 1;
  world.manager.noteTokens(entry.sequence, entry.text.length, [entry.ahead]);
}

function setPriority(world: World, number: number, a: number): void {
  const entry = world.pick(number);
  if (entry === undefined || world.config.policy !== "priority") return;
  world.now += a % 50;
  for (const [group, { pool }] of world.cache.groups.entries()) {
    for (const page of world.cache.rowPages(group, entry.sequence.row)) {
      if (page >= 0) pool.setPriority(page, a % 101, a % 2 === 0 ? a % 70 : undefined);
    }
  }
}

function fault(world: World, a: number, b: number): void {
  if (!world.config.faults) return;
  const place = a % (2 + world.tiers.length);
  if (place >= 2) {
    const tier = world.tiers[place - 2];
    if (tier !== undefined) tier.fault = faults[b % faults.length] ?? "none";
    return;
  }
  const lane = place as 0 | 1;
  if (world.machine.lanes[lane].length === 0) return;
  world.moveFaults++;
  if (b % 3 === 0) world.mover.passDeadlines(lane);
  else if (b % 7 === 0) world.mover.throwNext = true;
  else world.machine.failNext[lane] = true;
}

export type Operation = (world: World, a: number, b: number, c: number) => void;

/** Operations, each with how often it comes. */
export const operations: Record<string, readonly [weight: number, run: Operation]> = {
  open: [6, (world, a, b) => void (world.isFree(a) && world.open(a, saltOf(b)))],
  adopt: [12, openAndAdopt],
  append: [22, (world, a, b, c) => append(world, a, 1 + (b % 40), c, b % 7)],
  appendMany: [6, (world, a, b) => appendMany(world, 1 + (a % 18), b)],
  reserve: [2, (world, a, b) => reserve(world, a, b % 50)],
  truncate: [3, (world, a, b) => truncate(world, a, b % 60)],
  fork: [5, (world, a, b) => fork(world, a, b)],
  dispose: [6, (world, a) => dispose(world, a)],
  suspend: [9, (world, a) => suspend(world, a)],
  resume: [
    12,
    (world, a, b) => {
      const entry = world.pick(a);
      if (entry !== undefined && entry.adopting === undefined) resume(world, entry, signalOf(world, b));
    },
  ],
  swapOut: [5, (world, a) => swapOut(world, a)],
  makeRoom: [
    4,
    (world, a) =>
      world.track(
        "makeRoom",
        world.manager.makeRoom(a % (world.config.devicePages + 2)),
        (free) => void (free >= 0 || world.fail(`makeRoom gave ${free}`)),
        () => false,
      ),
  ],
  writeThrough: [
    3,
    (world, a) => {
      const entry = world.pick(a);
      if (entry === undefined) return;
      world.track("writeThrough", world.manager.writeThrough(entry.sequence), () => undefined, mayEnd(world, entry, undefined));
    },
  ],
  flush: [
    3,
    (world, a, b) => {
      const entry = world.pick(a);
      if (entry === undefined) return;
      const done = world.manager.flush(entry.sequence, b % 2);
      world.track("flush", done, () => undefined, isGone(entry));
    },
  ],
  pin: [1, pin],
  unpin: [1, (world, a) => world.pins.splice(a % 3, 1)[0]?.[Symbol.dispose]()],
  lookAhead: [
    2,
    (world, a) =>
      world.manager.lookAhead(
        world.entries.filter(({ state }, i) => state === "away" && ((a >> i) & 1) === 0).map((e) => e.sequence),
      ),
  ],
  read: [
    4,
    (world, a) => {
      const entry = world.pick(a);
      if (entry?.state === "running" && !isBusy(entry)) world.read(entry);
    },
  ],
  behindWindow: [
    2,
    (world, a) => {
      const entry = world.pick(a);
      if (entry !== undefined && !isBusy(entry)) world.cache.releaseBehindWindow(entry.sequence.row);
    },
  ],
  noteLate: [
    4,
    (world, a) => {
      const entry = world.pick(a);
      if (entry !== undefined && !isBusy(entry)) note(world, entry);
    },
  ],
  noteAhead: [2, (world, a, b) => noteAhead(world, a, b)],
  setPriority: [2, (world, a, b) => setPriority(world, a, b)],
  fault: [3, (world, a, b) => fault(world, a, b)],
  abort: [
    3,
    (world, a) => {
      world.controllers.splice(a % Math.max(1, world.controllers.length), 1)[0]?.abort();
    },
  ],
  compute: [10, (world, a) => world.machine.stepCompute(1 + (a % 12))],
  lane: [
    14,
    (world, a, b) => {
      for (let i = 0; i <= b % 6; i++) world.machine.stepLane((a & 1) as 0 | 1);
    },
  ],
  settleMove: [5, (world, a) => void world.machine.settleFirst((a & 1) as 0 | 1)],
  tier: [
    14,
    (world, a, b) => {
      const tier = world.tiers[a % Math.max(1, world.tiers.length)];
      if (tier !== undefined && tier.waiting.length > 0) tier.letGo(b);
    },
  ],
};
