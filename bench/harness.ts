/** Timing: tinybench runs the tasks and keeps the samples; the durations come from stamps on the device, so that launch and JavaScript
 * stay out of the numbers unless a suite measures just those. */
import { Bench } from "tinybench";
import type { Stream } from "../lib/index.js";

export interface Timing {
  samples: number;
  median_us: number;
  p5_us: number;
  p95_us: number;
}

export interface MeasureOptions {
  /** Least number of samples (default 30). */
  repeats?: number;
  warmup?: number;
  /** The stamped work holds this many equal nodes; times are divided by it. */
  nodes?: number;
  /** Stop early once this much time was spent and `least` samples are in; milliseconds. */
  budgetMs?: number;
  /** Samples that are taken whatever they cost (default 5). */
  least?: number;
}

const quantile = (sorted: readonly number[], q: number): number => {
  const at = (sorted.length - 1) * q;
  const low = sorted[Math.floor(at)] ?? Number.NaN;
  const high = sorted[Math.ceil(at)] ?? Number.NaN;
  return low + (high - low) * (at - Math.floor(at));
};

export function summarise(samplesUs: readonly number[]): Timing {
  const sorted = [...samplesUs].sort((a, b) => a - b);
  return {
    samples: sorted.length,
    median_us: quantile(sorted, 0.5),
    p5_us: quantile(sorted, 0.05),
    p95_us: quantile(sorted, 0.95),
  };
}

/** Microseconds a node of what `enqueue` puts on the stream, between two stamps. */
async function stamped(stream: Stream, enqueue: () => void, nodes: number): Promise<number> {
  stream.stamp(0);
  enqueue();
  stream.stamp(1);
  await stream.finished();
  return stream.elapsedMicroseconds(0, 1) / nodes;
}

/** Medians of several bodies of `nodes` equal nodes each, timed in turns, so that a drift of the clocks meets all of them alike. */
export async function measureInTurns(
  stream: Stream,
  bodies: readonly (() => void)[],
  nodes: number,
  repeats = 30,
): Promise<number[]> {
  const samples: number[][] = bodies.map(() => []);
  for (let i = -1; i < repeats; i++) {
    for (const [b, body] of bodies.entries()) {
      const us = await stamped(stream, body, nodes);
      if (i >= 0) samples[b]?.push(us); // the first round warms up
    }
  }
  return samples.map((us) => summarise(us).median_us);
}

/** Times what `enqueue(i)` puts on the stream; `i` rises so that the caller can rotate its buffers beyond the caches. */
export async function measure(
  name: string,
  stream: Stream,
  enqueue: (i: number) => void,
  options: MeasureOptions = {},
): Promise<Timing> {
  const { repeats = 30, warmup = 3, nodes = 1, budgetMs = Number.POSITIVE_INFINITY, least = 5 } = options;
  let i = 0;
  const once = (): Promise<number> => stamped(stream, () => enqueue(i++), nodes);
  for (let w = 0; w < warmup; w++) await once();
  const samplesUs: number[] = [];
  const begin = performance.now();
  const stopAt = new AbortController();
  const bench = new Bench({
    time: 0,
    iterations: repeats,
    warmup: false,
    retainSamples: true,
    signal: stopAt.signal,
    throws: true,
  });
  bench.add(name, async () => {
    const us = await once();
    samplesUs.push(us);
    if (samplesUs.length >= least && performance.now() - begin > budgetMs) stopAt.abort();
    return { overriddenDuration: us / 1000 };
  });
  await bench.run();
  return summarise(samplesUs);
}
