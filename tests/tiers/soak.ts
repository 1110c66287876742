/**
 * The tiers under random operations, for as long as is wanted:
 *
 *   npm run soak -- --operations 10000000 --seeds 100        spread over all cores; fresh seeds, told in the result
 *   npm run soak -- --seed 17 --seeds 1 --operations 100000  the seed of an earlier run again
 *   npm run soak -- --replay trace.json                      one trace, as a failure prints it; "-" reads it from stdin
 *   npm run soak -- --gigabytes 200 [--device cuda] [--disk FOLDER | none]   contents of real pages through all tiers, then the races
 *                                                            between copies and other work, with their event edges and without
 *
 * Progress goes to stderr. The last line of stdout is one JSON object: operations done, by name, seeds, seconds, failures. A failure is
 * shortened and printed as a trace before it, and the exit code is 1.
 */
import { fork } from "node:child_process";
import { randomInt } from "node:crypto";
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { DeviceKind } from "../../lib/index.js";
import { soakContents } from "./content_soak.js";
import { report, shrink } from "./shrink.js";
import { randomTrace, replay, type Trace } from "./trace.js";

/** Operations of one world: a failure is found again by running so many at most. */
const perTrace = 4000;

/** A worker that is silent for so long is stuck. */
const silentSeconds = 600;

interface Job {
  seed: number;
  operations: number;
}

interface Progress {
  seed: number;
  operations: number;
  counts: [string, number][];
  deeds: [string, number][];
  failure?: string | undefined;
  isOver: boolean;
}

/** Runs one seed's traces; each is a world of its own configuration. */
async function runSeed({ seed, operations }: Job, tell: (progress: Progress) => void): Promise<void> {
  for (let done = 0, index = 0; done < operations; index++) {
    const counts = new Map<string, number>();
    const deeds = new Map<string, number>();
    const trace = randomTrace(seed * 100_003 + index, Math.min(perTrace, operations - done));
    const outcome = await replay(trace, { counts, deeds });
    done += outcome.steps;
    const failure = outcome.failure === undefined ? undefined : report(await shrink(trace));
    const isOver = failure !== undefined || done >= operations;
    tell({ seed, operations: outcome.steps, counts: [...counts], deeds: [...deeds], failure, isOver });
    if (isOver) return;
  }
}

async function replayFile(path: string): Promise<void> {
  const trace = JSON.parse(readFileSync(path === "-" ? 0 : path, "utf8")) as Trace;
  const { failure } = await replay(trace);
  console.log(failure ?? "the trace does not fail");
  process.exitCode = failure === undefined ? 0 : 1;
}

class Tally {
  operations = 0;
  readonly counts: Map<string, number> = new Map();
  readonly deeds: Map<string, number> = new Map();
  readonly failures: string[] = [];
  #told = 0;
  readonly #begin = performance.now();

  get seconds(): number {
    return (performance.now() - this.#begin) / 1000;
  }

  add({ seed, operations, counts, deeds, failure }: Progress): void {
    this.operations += operations;
    for (const [name, count] of counts) this.counts.set(name, (this.counts.get(name) ?? 0) + count);
    for (const [name, count] of deeds) this.deeds.set(name, (this.deeds.get(name) ?? 0) + count);
    if (failure !== undefined) {
      this.failures.push(failure);
      console.log(`seed ${seed} failed: ${failure}`);
    }
    if (this.seconds - this.#told < 2) return;
    this.#told = this.seconds;
    const rate = Math.round(this.operations / this.seconds);
    process.stderr.write(`\r${this.operations} operations, ${rate} a second, ${this.failures.length} failures   `);
  }
}

async function soak(jobs: Job[], workers: number): Promise<void> {
  const tally = new Tally();
  const seeds = jobs.map(({ seed }) => seed);
  const work = async (): Promise<void> => {
    const child = fork(fileURLToPath(import.meta.url), ["--worker"]);
    for (let job = jobs.shift(); job !== undefined; job = jobs.shift()) {
      const { seed } = job;
      await new Promise<void>((resolve) => {
        const fail = (failure: string): void => {
          tally.add({ seed, operations: 0, counts: [], deeds: [], failure, isOver: true });
          end();
        };
        const watch = setInterval(() => {
          if (performance.now() - heard < 1000 * silentSeconds) return;
          child.kill("SIGKILL");
          fail(`it has done nothing for ${silentSeconds} seconds, which no shrinking takes: it goes round in circles`);
        }, 1000);
        let heard = performance.now();
        const hear = (progress: Progress): void => {
          heard = performance.now();
          tally.add(progress);
          if (progress.isOver) end();
        };
        const die = (code: number | null): void => fail(`its process ended with ${code}`);
        const end = (): void => {
          clearInterval(watch);
          child.off("message", hear).off("exit", die);
          resolve();
        };
        child.on("message", hear).on("exit", die);
        child.send(job as Job);
      });
      if (!child.connected) return;
    }
    child.disconnect();
  };
  await Promise.all(Array.from({ length: workers }, work));
  process.stderr.write("\n");
  const { operations, failures, seconds, counts, deeds } = tally;
  console.log(
    JSON.stringify({
      operations,
      seeds: seeds.length,
      firstSeed: seeds[0],
      seconds: Math.round(seconds),
      microsecondsPerOperation: Number(((seconds * workers * 1e6) / operations).toFixed(2)),
      failures: failures.length,
      counts: Object.fromEntries([...counts].sort(([, a], [, b]) => b - a)),
      deeds: Object.fromEntries(deeds),
    }),
  );
  process.exitCode = failures.length > 0 ? 1 : 0;
}

const { values } = parseArgs({
  options: {
    operations: { type: "string", default: "10000000" },
    seeds: { type: "string", default: "100" },
    seed: { type: "string" },
    workers: { type: "string", default: String(availableParallelism()) },
    replay: { type: "string" },
    gigabytes: { type: "string" },
    device: { type: "string" },
    disk: { type: "string" },
    worker: { type: "boolean", default: false },
  },
});

if (values.worker) {
  process.on("message", (job: Job) => {
    runSeed(job, (progress) => process.send?.(progress)).catch((error: unknown) => {
      console.error(error);
      process.exit(1);
    });
  });
} else if (values.gigabytes !== undefined) {
  const { gigabytes, device, disk, seed } = values;
  const isRight = await soakContents({
    gigabytes: Number(gigabytes),
    device: device as DeviceKind | undefined,
    disk,
    seed: seed === undefined ? undefined : Number(seed),
  });
  process.exitCode = isRight ? 0 : 1;
} else if (values.replay !== undefined) {
  await replayFile(values.replay);
} else {
  const count = Number(values.seeds);
  const first = Number(values.seed ?? randomInt(1e6));
  const operations = Math.ceil(Number(values.operations) / count);
  await soak(
    Array.from({ length: count }, (_, i) => ({ seed: first + i, operations })),
    Math.min(count, Number(values.workers)),
  );
}
