/** Shortens a trace that fails: whole stretches of steps go first, then single ones, as long as it still fails. */
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
  for (let size = Math.ceil(best.length / 2); size >= 1 && runs < most; ) {
    let isShorter = false;
    for (let at = Math.max(0, best.length - size); runs < most; at = Math.min(at, best.length) - size) {
      const from = Math.max(0, at);
      if (await attempt([...best.slice(0, from), ...best.slice(from + size)])) isShorter = true;
      if (from === 0) break;
    }
    if (size === 1 && !isShorter) break;
    if (!isShorter || size > 1) size = Math.max(1, Math.floor(size / 2));
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
