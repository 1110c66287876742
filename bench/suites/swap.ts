/** Context switches of a Llama-shaped model with random weights: all pages of a sequence to host memory and back, only those that changed,
 * and a swap-in under the prefill of the next question, against one large copy of the same run. Pages hold random numbers. */
import {
  type CacheTiers,
  type Device,
  allocateHostTensor,
  type Model,
  openDevice,
  randomModel,
  type Sequence,
} from "../../lib/index.js";
import { summarise } from "../harness.js";
import { makeTarget, noAttention, type Row, type SuiteOptions, type Target } from "../results.js";
import { llama8b, llamaConfig, llamaSmall, type ModelShape } from "../models.js";
import { fillCache } from "./decode_step.js";

const PAGE_SIZE = 64;

interface Scale {
  shape: ModelShape;
  contexts: readonly number[];
  /** Tokens of a user's turn. */
  turn: number;
  /** Context and question of the pipelined swap-in. */
  pipelined: readonly { context: number; question: number }[];
  repeats: number;
}
const scales: Record<Device["backend"], Scale> = {
  cuda: {
    shape: llama8b,
    contexts: [4096, 32768],
    turn: 250,
    pipelined: [
      { context: 8192, question: 1024 },
      { context: 32768, question: 2048 },
    ],
    repeats: 15,
  },
  cpu: {
    shape: llamaSmall,
    contexts: [4096],
    turn: 250,
    pipelined: [{ context: 4096, question: 64 }],
    repeats: 5,
  },
};

interface Bed {
  model: Model;
  tiers: CacheTiers;
  pageBytes: number;
  /** Microseconds a byte of one large copy, to the device and to the host. */
  raw: { in: number; out: number };
  report: (row: Row) => void;
  targets: Target[];
}

/** Milliseconds of `work`. */
async function timed(work: () => Promise<unknown>): Promise<number> {
  const begin = performance.now();
  await work();
  return performance.now() - begin;
}

/** Microseconds a byte of 1 GiB (CPU: 64 MiB) between pinned memory and the device. */
async function rawRates(device: Device): Promise<Bed["raw"]> {
  const bytes = device.backend === "cuda" ? 2 ** 30 : 2 ** 26;
  const cpu = device.backend === "cpu" ? device : openDevice("cpu");
  const host = await allocateHostTensor(cpu, "u8", [bytes], cpu === device ? {} : { pinnedFor: device });
  using there = device.zeros("u8", [bytes]);
  const median = async (copy: () => void): Promise<number> => {
    const samples: number[] = [];
    for (let i = 0; i < 6; i++) {
      device.stream.stamp(0);
      copy();
      device.stream.stamp(1);
      await device.stream.finished();
      if (i > 0) samples.push(device.stream.elapsedMicroseconds(0, 1));
    }
    return summarise(samples).median_us / bytes;
  };
  const rates = { in: await median(() => there.copyFrom(host)), out: await median(() => host.copyFrom(there)) };
  host.dispose();
  if (cpu !== device) cpu.dispose();
  return rates;
}

function row(bed: Bed, variant: string, ms: readonly number[], bytes: number, direction: "in" | "out", figures = {}): Row {
  const timing = summarise(ms.map((x) => x * 1e3));
  const rate = 1e-3 / bed.raw[direction];
  const gb_per_s = bytes / timing.median_us / 1e3;
  return {
    op: "swap",
    variant,
    shape: noAttention,
    pages: { count: bytes / bed.pageBytes, bytes: bed.pageBytes },
    dtype: bed.model.dtype,
    ...timing,
    gb_per_s,
    ceiling: { name: `one pinned copy, ${direction} (GB/s)`, value: rate },
    share_of_ceiling: gb_per_s / rate,
    figures,
    peers: {},
    max_abs_err: 0,
    tolerance: 0,
    pass: true,
  };
}

/** Every page of a context out and in; then only what a turn of the user has changed. */
async function contextSwitch(bed: Bed, context: number, { turn, repeats }: Scale): Promise<void> {
  const { model, tiers, pageBytes } = bed;
  const times = { out: [] as number[], in: [] as number[], dirty: [] as number[] };
  let dirtyBytes = 0;
  const bytes = (context / PAGE_SIZE) * pageBytes;
  const changed = (Math.ceil((context + turn) / PAGE_SIZE) - Math.floor(context / PAGE_SIZE)) * pageBytes;
  for (let i = 0; i < repeats; i++) {
    using sequence = model.createSequence();
    sequence.reserve(context);
    sequence.commit(context);
    times.out.push(await timed(() => tiers.swapOut(sequence)));
    times.in.push(await timed(() => tiers.resume(sequence).ready));
    sequence.reserve(turn);
    sequence.commit(turn);
    times.dirty.push(
      await timed(async () => {
        dirtyBytes = (await tiers.swapOut(sequence)).bytes;
      }),
    );
  }
  bed.report(row(bed, `out, ${context} tokens`, times.out, bytes, "out"));
  bed.report(row(bed, `in, ${context} tokens`, times.in, bytes, "in"));
  bed.report(
    row(bed, `out after ${turn} tokens more`, times.dirty, changed, "out", { moved_bytes: dirtyBytes, expected_bytes: changed }),
  );
  bed.targets.push(
    makeTarget(`dirty bytes over those of the new pages, ${context} tokens`, dirtyBytes / changed, { at_least: 1, at_most: 1 }),
  );
}

/** How much of a swap-in hides under the pass that needs it. */
async function pipelinedSwapIn(bed: Bed, context: number, question: number, repeats: number): Promise<void> {
  const { model, tiers, pageBytes } = bed;
  const tokens = Int32Array.from({ length: question }, (_, i) => (i * 7919) % model.config.vocabSize);
  const ms = { copy: [] as number[], compute: [] as number[], both: [] as number[] };
  using sequence: Sequence = model.createSequence();
  sequence.reserve(context);
  sequence.commit(context);
  const ask = async (resumptions = [] as ReturnType<CacheTiers["resume"]>[]): Promise<void> => {
    (await model.prefill([{ sequence, tokens }], { resumptions })).dispose();
  };
  for (let i = -3; i < repeats; i++) {
    const compute = await timed(() => ask());
    sequence.truncate(context);
    await tiers.swapOut(sequence);
    const copy = await timed(() => tiers.resume(sequence).ready);
    await tiers.swapOut(sequence);
    const both = await timed(async () => ask([tiers.resume(sequence)]));
    sequence.truncate(context);
    if (i < 0) continue;
    ms.copy.push(copy);
    ms.compute.push(compute);
    ms.both.push(both);
  }
  const median = (values: number[]): number => summarise(values).median_us;
  const hidden = 1 - (median(ms.both) - median(ms.compute)) / median(ms.copy);
  const figures = { copy_ms: median(ms.copy), compute_ms: median(ms.compute), both_ms: median(ms.both), hidden_share: hidden };
  const name = `in under ${question} tokens, ${context}`;
  bed.report(row(bed, name, ms.both, (context / PAGE_SIZE) * pageBytes, "in", figures));
  const bound = figures.copy_ms <= figures.compute_ms ? { at_least: 0.9 } : {};
  bed.targets.push(makeTarget(`hidden share of a swap-in, ${name}`, hidden, bound));
}

export async function swap(
  device: Device,
  _ceilings: Record<string, number>,
  report: (row: Row) => void,
  { conclude }: SuiteOptions,
): Promise<void> {
  const scale = scales[device.backend];
  const longest = Math.max(...scale.contexts, ...scale.pipelined.map(({ context, question }) => context + question));
  const { num_hidden_layers: layers, num_key_value_heads: heads, head_dim: dim } = scale.shape;
  const cacheTokens = longest + scale.turn;
  const bytes = (cacheTokens + 64 * PAGE_SIZE) * layers * heads * dim * 2 * (device.backend === "cuda" ? 2 : 4);
  const raw = await rawRates(device);
  const model = await randomModel(device, llamaConfig(scale.shape), { cacheTokens, tiers: { host: { bytes } } });
  try {
    await fillCache(model);
    const pageBytes = model.cache.groups[0]?.format.pageBytes as number;
    const bed: Bed = { model, tiers: model.tiers as CacheTiers, pageBytes, raw, report, targets: [] };
    for (const context of scale.contexts) await contextSwitch(bed, context, scale);
    for (const { context, question } of scale.pipelined) await pipelinedSwapIn(bed, context, question, scale.repeats);
    conclude?.(bed.targets);
  } finally {
    await model.close();
  }
}
