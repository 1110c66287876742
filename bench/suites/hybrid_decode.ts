/** Decoding one long context of which an eighth lies on the device and the rest in host memory: all of that streamed, all of it read by
 * the CPU, and shared by measured rates, in turns. First what bounds them: the CPU's reading, the link, and both at the same time. The
 * model is Llama-shaped with random weights, pages hold random numbers. On the CPU both sides are its memory, in small. */
import { availableParallelism } from "node:os";
import {
  type Device,
  type HybridDecode,
  type HybridOptions,
  type Model,
  type Sequence,
  type Tensor,
  allocateHostTensor,
  measureTransferPaths,
  openDevice,
  randomModel,
} from "../../lib/index.js";
import { Pattern, shuffled } from "../data.js";
import { summarise } from "../harness.js";
import { makeTarget, type Row, type SuiteOptions, type Target } from "../results.js";
import { llama8b, llamaConfig, llamaSmall, type ModelShape } from "../models.js";
import { fillCache } from "./decode_step.js";
import { hybridCeilings } from "./hybrid_ceilings.js";

const PAGE_SIZE = 64;
const GB = 1e9;
/** Share of a context's pages that the device holds. */
const DEVICE_SHARE = 1 / 8;

interface Scale {
  shape: ModelShape;
  context: number;
  /** Steps until shares have settled, and steps that are timed, a round; rounds. */
  warmup: number;
  steps: number;
  rounds: number;
  chunkPages: number;
  /** Microseconds that a ceiling is measured for. */
  ceilingUs: number;
}
const scales: Record<Device["backend"], Scale> = {
  cuda: {
    shape: llama8b,
    context: 131072,
    warmup: 16,
    steps: 8,
    rounds: 4,
    chunkPages: 128,
    ceilingUs: 1e6,
  },
  cpu: {
    shape: llamaSmall,
    context: 16384,
    warmup: 10,
    steps: 6,
    rounds: 3,
    chunkPages: 32,
    ceilingUs: 2e5,
  },
};

interface Bed {
  device: Device;
  host: Device;
  model: Model;
  scale: Scale;
  /** [pages, elements_per_page] */
  hostPages: Tensor;
  slots: Int32Array;
  sequence: Sequence;
  deviceTokens: number;
  report: (row: Row) => void;
  targets: Target[];
}

interface Variant {
  name: string;
  options: Omit<HybridOptions, "hostPages">;
  decode: HybridDecode;
  /** Milliseconds a token. */
  times: number[];
}

/** Steps from the context's end, the device one ahead of what is read; microseconds from token to token. */
async function run(bed: Bed, { decode }: Variant, steps: number): Promise<number[]> {
  bed.sequence.truncate(bed.deviceTokens);
  decode.startFrom([1]);
  await bed.model.stream.finished();
  const times: number[] = [];
  let coming = decode.step();
  let last = performance.now();
  for (let i = 0; i <= steps; i++) {
    const next = i < steps ? decode.step() : undefined;
    await coming;
    const now = performance.now();
    if (i > 0) times.push((now - last) * 1e3); // the first one has nothing before it to hide its start
    last = now;
    if (next !== undefined) coming = next;
  }
  return times;
}

/** Logits after one step from the same token, and their largest difference from the reference: later steps may go other ways. */
async function compared(
  bed: Bed,
  variant: Variant,
  reference: Float32Array | undefined,
): Promise<{ logits: Float32Array; error: number }> {
  await run(bed, variant, 0);
  const logits = (await variant.decode.logits.readFloats()).slice(0, bed.model.config.vocabSize);
  if (reference === undefined) return { logits, error: 0 };
  const error = logits.reduce((worst, value, i) => {
    const difference = Math.abs(value - (reference[i] as number));
    return difference <= worst ? worst : Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference;
  }, 0);
  return { logits, error };
}

async function decodes(bed: Bed, bothGbPerS: number): Promise<void> {
  const { model, hostPages, scale, sequence, slots, report, targets } = bed;
  const kinds: readonly (readonly [string, Omit<HybridOptions, "hostPages">])[] = [
    ["streamed", { cpuShare: 0 }],
    ["read by the CPU", { cpuShare: 1 }],
    ["shared by rates", {}],
  ];
  const variants: Variant[] = [];
  try {
    for (const [name, options] of kinds) {
      const all = { hostPages, chunkPages: scale.chunkPages, ...options };
      const decode = await model.decodeHybrid([{ sequence, hostSlots: slots }], all);
      variants.push({ name, options, decode, times: [] });
    }
    const errors: number[] = [];
    let reference: Float32Array | undefined;
    for (const variant of variants) {
      await run(bed, variant, scale.warmup);
      const { logits, error } = await compared(bed, variant, reference);
      reference ??= logits;
      errors.push(error);
    }
    for (let round = 0; round < scale.rounds; round++)
      for (const variant of variants) variant.times.push(...(await run(bed, variant, scale.steps)));
    const largest = (reference as Float32Array).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    variants.forEach((variant, i) => {
      report(decodeRow(bed, variant, bothGbPerS, errors[i] as number, 0.05 * largest));
    });
    const [streamed, , shared] = variants.map(({ times }) => summarise(times).median_us) as [number, number, number];
    // Where host and device are one, so are their memory and their cores.
    const bound = bed.device.backend === "cuda" ? { at_least: 1.5 } : {};
    targets.push(makeTarget("rate of hybrid decode over that of streaming all host pages", streamed / shared, bound));
  } finally {
    for (const { decode } of variants) decode.dispose();
  }
}

function decodeRow(bed: Bed, { name, decode, times }: Variant, bothGbPerS: number, error: number, tolerance: number): Row {
  const { model, hostPages, scale } = bed;
  const timing = summarise(times);
  const { stats } = decode;
  const rate = hostPages.bytes / GB / (timing.median_us / 1e6);
  return {
    op: "hybrid_decode",
    variant: name,
    shape: {
      batch: 1,
      qoLen: 1,
      kvLen: scale.context,
      qoHeads: model.config.numQoHeads,
      kvHeads: model.config.numKvHeads,
      headDim: model.config.headDim,
      pageSize: PAGE_SIZE,
    },
    dtype: model.dtype,
    ...timing,
    gb_per_s: rate,
    ceiling: { name: "both_gb_per_s", value: bothGbPerS },
    share_of_ceiling: rate / bothGbPerS,
    figures: {
      ms_per_token: timing.median_us / 1e3,
      cpu_share: stats.shares.cpu,
      ...(stats.cpuPages > 0 ? { cpu_ms: stats.cpuMicroseconds / 1e3, cpu_gb_per_s: stats.rates.cpuBytesPerUs / 1e3 } : {}),
      ...(stats.streamedPages > 0
        ? { copy_ms: stats.copyMicroseconds / 1e3, link_gb_per_s: stats.rates.linkBytesPerUs / 1e3 }
        : {}),
      serial_us: stats.rates.serialUs,
    },
    peers: {},
    max_abs_err: error,
    tolerance,
    pass: error <= tolerance,
  };
}

/** The pool of host pages, filled with random numbers without a prefill. */
async function makeHostPages(host: Device, model: Model, pages: number): Promise<Tensor> {
  const { device, dtype } = model;
  const elements = model.store.pages(0).shape[1] as number;
  const pinned = device.backend === "cuda" ? { pinnedFor: device } : {};
  const hostPages = await allocateHostTensor(host, dtype, [pages, elements], pinned);
  const pattern = await Pattern.create(host, dtype, 9);
  using block = await pattern.tensor(host, [Math.min(hostPages.size, pattern.values.length)]);
  using flat = hostPages.reshape([hostPages.size]);
  for (let at = 0; at < flat.size; at += block.size) {
    using to = flat.slice(at, Math.min(flat.size, at + block.size));
    using from = block.slice(0, to.size);
    to.copyFrom(from);
  }
  await host.stream.finished();
  return hostPages;
}

export async function hybridDecode(
  device: Device,
  _ceilings: Record<string, number>,
  report: (row: Row) => void,
  { conclude }: SuiteOptions,
): Promise<void> {
  const scale = scales[device.backend];
  const pages = scale.context / PAGE_SIZE;
  const devicePages = pages * DEVICE_SHARE;
  const deviceTokens = devicePages * PAGE_SIZE - 1; // the first step fills the last page
  // Two cores are left to JavaScript and to the thread that makes copies.
  const threads = Math.max(1, availableParallelism() - (device.backend === "cuda" ? 2 : 0));
  using host = openDevice("cpu", { threads });
  if (device.backend === "cuda") await measureTransferPaths(device, host);
  using model = await randomModel(device, llamaConfig(scale.shape), { cacheTokens: devicePages * PAGE_SIZE, chunkTokens: 8 });
  await fillCache(model);
  using hostPages = await makeHostPages(host, model, pages - devicePages);
  using sequence = model.createSequence();
  sequence.reserve(deviceTokens);
  sequence.commit(deviceTokens);
  const slots = shuffled(hostPages.shape[0] as number, 3);
  const targets: Target[] = [];
  const bed: Bed = { device, host, model, scale, hostPages, slots, sequence, deviceTokens, report, targets };
  const { chunkPages, ceilingUs } = scale;
  const both = await hybridCeilings(
    { device, host, hostPages, slots, layers: model.config.numLayers, chunkPages, ceilingUs },
    report,
  );
  await decodes(bed, both);
  conclude?.(targets);
}
