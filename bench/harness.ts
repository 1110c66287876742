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
  /** Stop early once this much time was spent and 5 samples are in (CPU suites); milliseconds. */
  budgetMs?: number;
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

/** Times what `enqueue(i)` puts on the stream; `i` rises so that the caller can rotate its buffers beyond the caches. */
export async function measure(
  name: string,
  stream: Stream,
  enqueue: (i: number) => void,
  options: MeasureOptions = {},
): Promise<Timing> {
  const { repeats = 30, warmup = 3, nodes = 1, budgetMs = Number.POSITIVE_INFINITY } = options;
  let i = 0;
  const once = async (): Promise<number> => {
    stream.stamp(0);
    enqueue(i++);
    stream.stamp(1);
    await stream.finished();
    return stream.elapsedMicroseconds(0, 1) / nodes;
  };
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
    if (samplesUs.length >= 5 && performance.now() - begin > budgetMs) stopAt.abort();
    return { overriddenDuration: us / 1000 };
  });
  await bench.run();
  return summarise(samplesUs);
}
