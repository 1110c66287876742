/** Traces: a world's configuration and what is done to it, as data that can be generated from a seed, run again and shortened. */
import { type PolicyName, policyNames } from "../../lib/cache/eviction_policies.js";
import { alone, checkIntegrity, drain, finish, restart, settle } from "./laws.js";
import { operations } from "./operations.js";
import { Random } from "./random.js";
import { World, type WorldConfig } from "./world.js";

/** Name, three numbers, and how far JavaScript's own queue goes on afterwards: not at all, so many turns, or (8) to its end. */
export type Step = readonly [name: string, a: number, b: number, c: number, turns: number];

export interface Trace {
  seed: number;
  config: WorldConfig;
  steps: Step[];
}

const toItsEnd = 8;
/** Steps between two recounts of everything. */
const recountEvery = 64;

type Law = (world: World, number: number, seed: number) => Promise<void>;

/** Operations that come to rest on the way; how often, beside those of `operations`. */
const laws: Record<string, readonly [weight: number, run: Law]> = {
  settle: [0.7, (world, _number, seed) => settle(world, seed)],
  alone: [0.5, alone],
  restart: [0.08, restart],
};

const names: string[] = tableOfNames();

function tableOfNames(): string[] {
  const weights = [...Object.entries(operations), ...Object.entries(laws)].map(([name, [weight]]) => [name, weight] as const);
  return weights.flatMap(([name, weight]) => Array.from({ length: Math.round(weight * 25) }, () => name));
}

export function randomConfig(random: Random): WorldConfig {
  const hasHost = random.chance(0.75);
  const kind = random.below(4);
  const ample = 1e9;
  const hasDisk = kind > 0;
  return {
    groups: random.chance(0.3) ? 2 : 1,
    devicePages: 10 + random.below(7),
    hostPages: hasHost ? 4 + random.below(16) : 0,
    farPages: hasDisk ? ([0, 20, 200][random.below(3)] ?? 0) : 0,
    disk: hasDisk ? (random.chance(0.5) ? ample : 8 + random.below(30)) : 0,
    remote: kind === 2 ? (random.chance(0.5) ? ample : 20 + random.below(60)) : 0,
    policy: policyNames[random.below(policyNames.length)] as PolicyName,
    admitAtSecondUse: random.chance(0.5),
    faults: random.chance(0.4),
    writeThrough: random.chance(0.3),
  };
}

export function randomTrace(seed: number, length: number, change: Partial<WorldConfig> = {}): Trace {
  const random = new Random(seed);
  const config = { ...randomConfig(random), ...change };
  const steps = Array.from({ length }, (): Step => {
    const name = names[random.below(names.length)] as string;
    const word = random.next();
    const haste = random.below(8);
    const turns = haste < 4 ? 0 : haste < 6 ? 1 + random.below(4) : toItsEnd;
    return [name, word & 1023, (word >>> 10) & 1023, word >>> 20, turns];
  });
  return { seed, config, steps };
}

export interface Outcome {
  /** What went wrong, or undefined. */
  failure: string | undefined;
  /** Steps that were done. */
  steps: number;
}

/** Adds up what the tiers did: whoever reads the result can see that all of it was met. */
function addDeeds(world: World, counts: Map<string, number>): void {
  const { moves, evictions, foundTokens, lostTokens } = world.manager.stats();
  const deeds = { ...moves, ...evictions, lostTokens, ...world.deeds };
  const found = Object.entries(foundTokens).map(([tier, tokens]) => [`tokens from ${tier}`, tokens] as const);
  for (const [name, count] of [...Object.entries(deeds), ...found]) counts.set(name, (counts.get(name) ?? 0) + count);
}

/** The world whose trace runs: rejections that nobody handles are its failures. */
let running: World | undefined;
process.on("unhandledRejection", (error) => {
  if (running === undefined) throw error;
  running.fail(`a rejection that nobody handles: ${String((error as Error)?.stack ?? error)}`);
});

export interface ReplayOptions {
  /** Add up the operations that were done, and what the tiers did. */
  counts?: Map<string, number> | undefined;
  deeds?: Map<string, number> | undefined;
  /** Whether errors have stacks: they cost more than what they are stacks of. */
  hasStacks?: boolean;
}

/** Runs a trace, to its first failure. */
export async function replay({ config, steps, seed }: Trace, options: ReplayOptions = {}): Promise<Outcome> {
  const { counts, deeds, hasStacks = false } = options;
  const world = new World(config);
  Error.stackTraceLimit = hasStacks ? 30 : 0;
  running = world;
  let done = 0;
  for (const step of steps) {
    world.at = `step ${done++}, ${step[0]}`;
    await take(world, step);
    counts?.set(step[0], (counts.get(step[0]) ?? 0) + 1);
    if (done % recountEvery === 0) checkIntegrity(world);
    if (world.failure !== undefined) break;
  }
  if (world.failure === undefined) {
    world.at = "the end";
    await finish(world, seed);
  }
  running = undefined;
  if (deeds !== undefined) addDeeds(world, deeds);
  return { failure: world.failure, steps: done };
}

async function take(world: World, [name, a, b, c, turns]: Step): Promise<void> {
  try {
    const operation = operations[name];
    if (operation !== undefined) operation[1](world, a, b, c);
    else await laws[name]?.[1](world, a, b * 1024 + c);
  } catch (error) {
    world.fail(`${name} threw ${String((error as Error).stack ?? error)}`);
    return;
  }
  if (turns === toItsEnd) await drain();
  else for (let turn = 0; turn < turns; turn++) await undefined;
}
