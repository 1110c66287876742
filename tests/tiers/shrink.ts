/** Shortens a trace that fails: whole stretches of steps go first, then single ones, as long as it still fails. */
import { numPlaces } from "./world.js";
import { replay, type Step, type Trace } from "./trace.js";

/** Failures are the same when they read the same but for numbers. */
const kindOf = (failure: string): string =>
  failure
    .replace(/ \(in step.*/s, "")
    .replace(/\d+/g, "#")
    .slice(0, 60);

export interface Shrunk {
  trace: Trace;
  failure: string;
  /** Runs that it took. */
  runs: number;
}

/** Steps on one place from one sequence's end to the next one's: they go together or not at all. Long ones first. */
function lives(steps: readonly Step[]): Set<number>[] {
  const all: Set<number>[] = [];
  const open = Array.from({ length: numPlaces }, () => new Set<number>());
  steps.forEach(([name, a], i) => {
    const place = a % numPlaces;
    (open[place] as Set<number>).add(i);
    if (name !== "dispose") return;
    all.push(open[place] as Set<number>);
    open[place] = new Set();
  });
  return [...all, ...open].sort((a, b) => b.size - a.size);
}

/** `most` bounds the runs. Throws for a trace that does not fail. */
export async function shrink(trace: Trace, most = 3000): Promise<Shrunk> {
  const first = await replay(trace);
  if (first.failure === undefined) throw new Error("the trace does not fail");
  const kind = kindOf(first.failure);
  let best: Step[] = trace.steps.slice(0, first.steps);
  let { failure } = first;
  let runs = 1;
  const attempt = async (steps: Step[]): Promise<boolean> => {
    runs++;
    const outcome = await replay({ ...trace, steps });
    if (outcome.failure === undefined || kindOf(outcome.failure) !== kind) return false;
    best = steps.slice(0, outcome.steps);
    failure = outcome.failure;
    return true;
  };
  const without = async (gone: ReadonlySet<number>): Promise<boolean> => attempt(best.filter((_, i) => !gone.has(i)));
  for (let length = -1; length !== best.length && runs < most; ) {
    ({ length } = best);
    for (const life of lives(best)) if (runs < most && best.length > life.size) await without(life);
    for (let size = Math.ceil(best.length / 2); size >= 1; size = Math.floor(size / 2)) {
      for (let end = best.length; end > 0 && runs < most; end = Math.min(end - size, best.length)) {
        await without(new Set(Array.from({ length: size }, (_, i) => end - 1 - i)));
      }
    }
  }
  const simpler = best.map((_, i) => i);
  for (const i of simpler) {
    if (runs >= most) break;
    const [name, a, b, c, turns] = best[i] as Step;
    if (turns !== 0) await attempt(best.map((step, k) => (k === i ? [name, a, b, c, 0] : step)));
  }
  const shortest = { ...trace, steps: best };
  const { failure: told } = await replay(shortest, { hasStacks: true });
  return { trace: shortest, failure: told ?? (failure as string), runs };
}

/** One line that holds the trace, and how to run it again. */
export function report({ trace, failure, runs }: Shrunk): string {
  return [
    failure,
    `shrunk to ${trace.steps.length} steps in ${runs} runs; run it again with: npm run soak -- --replay trace.json`,
    JSON.stringify(trace),
  ].join("\n");
}
