/** What can be done to a world, by name. An operation takes numbers, which it maps to what there is, so that any trace can be run. */
import { faults } from "./memory_tier.js";
import { cutText, note, refuses, step } from "./model_step.js";
import { prompts } from "./prompts.js";
import { adopt, isGone, resume } from "./returning.js";
import { type Entry, salts, type World } from "./world.js";

export type Operation = (world: World, a: number, b: number, c: number) => void;
type OnEntry = (world: World, entry: Entry, b: number, c: number) => void;

const isBusy = ({ returning, adopting }: Entry): boolean => returning > 0 || adopting !== undefined;

/** An operation on the sequence that the first number stands for. */
const on =
  (act: OnEntry): Operation =>
  (world, a, b, c) => {
    const entry = world.pick(a);
    if (entry !== undefined) act(world, entry, b, c);
  };

/** The same, where no call is giving the sequence pages. */
const onFree = (act: OnEntry): Operation => on((world, entry, b, c) => void (isBusy(entry) || act(world, entry, b, c)));

/** The same, for one that runs. */
const onRunning = (act: OnEntry): Operation =>
  onFree((world, entry, b, c) => void (entry.state === "running" && act(world, entry, b, c)));

/** The same, where it is not being filled for the first time. */
const onFilled = (act: OnEntry): Operation =>
  on((world, entry, b, c) => void (entry.adopting === undefined && act(world, entry, b, c)));

function append(world: World, entry: Entry, count: number, a: number, mode: number): void {
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

function appendMany(world: World, count: number, a: number): void {
  const entries = world.entries.filter((entry) => entry.state === "running" && !isBusy(entry)).slice(0, 1 + (a % 4));
  if (entries.length === 0) return;
  const counts = entries.map((_, i) => (count + i) % 20);
  if (!step(world, entries, counts, a)) return;
  for (const entry of entries) if ((a + entry.id) % 4 !== 0) note(world, entry);
}

function truncate(entry: Entry, drop: number): void {
  if (entry.adopting !== undefined) {
    entry.sequence.truncate(Math.max(0, entry.sequence.length - drop)); // its text is what is there in the end
    return;
  }
  const length = Math.max(0, entry.text.length - drop);
  if (refuses(() => entry.sequence.truncate(length), "ERR_KVASIR_INVALID_ARGUMENT")) return;
  cutText(entry, length);
}

function fork(world: World, entry: Entry, place: number): void {
  if (!world.isFree(place)) return;
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

/** A signal that a later operation may use; sometimes. */
function signalOf(world: World, a: number): AbortSignal | undefined {
  if (a % 8 !== 0) return undefined;
  const controller = new AbortController();
  world.controllers.push(controller);
  if (world.controllers.length > 6) world.controllers.shift();
  return controller.signal;
}

function swapOut(world: World, entry: Entry): void {
  entry.state = "away";
  entry.suspensions++;
  world.track("swapOut", world.manager.swapOut(entry.sequence), () => undefined, isGone(entry));
}

function suspend(world: World, entry: Entry): void {
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

function pin(world: World, entry: Entry): void {
  if (world.pins.length < 2) world.pins.push(world.manager.pin(entry.sequence));
}

function noteAhead(world: World, entry: Entry, b: number): void {
  note(world, entry);
  entry.ahead = b & 1;
  world.manager.noteTokens(entry.sequence, entry.text.length, [entry.ahead]);
}

function setPriority(world: World, entry: Entry, a: number): void {
  if (world.config.policy !== "priority") return;
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

function makeRoom(world: World, a: number): void {
  const made = world.manager.makeRoom(a % (world.config.devicePages + 2));
  const tell = (free: number): void => void (free >= 0 || world.fail(`makeRoom gave ${free}`));
  world.track("makeRoom", made, tell, () => false);
}

function lookAhead(world: World, a: number): void {
  const next = world.entries.filter(({ state }, i) => state === "away" && ((a >> i) & 1) === 0);
  world.manager.lookAhead(next.map(({ sequence }) => sequence));
}

function moveLane(world: World, a: number, b: number): void {
  for (let i = 0; i <= b % 6; i++) world.machine.stepLane((a & 1) as 0 | 1);
}

function letTierGo(world: World, a: number, b: number): void {
  const tier = world.tiers[a % Math.max(1, world.tiers.length)];
  if (tier !== undefined && tier.waiting.length > 0) tier.letGo(b);
}

const nothing = (): void => undefined;

/** Operations, each with how often it comes. */
export const operations: Record<string, readonly [weight: number, run: Operation]> = {
  open: [4, (world, a, b) => void (world.isFree(a) && world.open(a, saltOf(b)))],
  adopt: [11, openAndAdopt],
  append: [22, onFree((world, entry, b, c) => append(world, entry, 1 + (b % 40), c, b % 7))],
  appendMany: [6, (world, a, b) => appendMany(world, 1 + (a % 18), b)],
  // Pages for tokens that may never come.
  reserve: [2, onRunning((_, { sequence }, b) => void refuses(() => sequence.reserve(b % 50), "ERR_KVASIR_OUT_OF_PAGES"))],
  truncate: [3, on((_, entry, b) => truncate(entry, b % 60))],
  fork: [5, on(fork)],
  dispose: [10, on((world, entry) => world.leave(entry))],
  suspend: [9, onFilled(suspend)],
  resume: [12, onFilled((world, entry, b) => resume(world, entry, signalOf(world, b)))],
  swapOut: [5, onFilled(swapOut)],
  makeRoom: [4, makeRoom],
  writeThrough: [
    3,
    on((world, entry) => world.track("writeThrough", world.manager.writeThrough(entry.sequence), nothing, isGone(entry))),
  ],
  flush: [3, on((world, entry, b) => world.track("flush", world.manager.flush(entry.sequence, b % 2), nothing, isGone(entry)))],
  pin: [1, onFree(pin)],
  unpin: [1, (world, a) => world.pins.splice(a % 3, 1)[0]?.[Symbol.dispose]()],
  lookAhead: [2, lookAhead],
  read: [4, onRunning((world, entry) => void world.read(entry))],
  behindWindow: [2, onFree((world, { sequence }) => void world.cache.releaseBehindWindow(sequence.row))],
  noteLate: [4, onFree(note)],
  noteAhead: [2, onFree(noteAhead)],
  setPriority: [2, on(setPriority)],
  fault: [3, fault],
  abort: [3, (world, a) => world.controllers.splice(a % Math.max(1, world.controllers.length), 1)[0]?.abort()],
  compute: [10, (world, a) => world.machine.stepCompute(1 + (a % 12))],
  lane: [14, moveLane],
  settleMove: [5, (world, a) => void world.machine.settleFirst((a & 1) as 0 | 1)],
  tier: [14, letTierGo],
};
