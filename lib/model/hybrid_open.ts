/** What a hybrid decode is made of: arguments checked, and everything allocated before the first step. */
import type { CacheTiers } from "../cache/cache_tiers.js";
import type { KvCache } from "../cache/kv_cache.js";
import type { PageFormat } from "../cache/page_format.js";
import { Sequence } from "../cache/sequence.js";
import { KvasirError } from "../errors.js";
import { checkInteger, checkOptions, describe } from "../options.js";
import { shapeText } from "../shape.js";
import type { Stream } from "../stream.js";
import { Tensor } from "../tensor.js";
import { checkSampling, DecodeProgram, type Sampling } from "./decode_program.js";
import { HybridAttention } from "./hybrid_attention.js";
import { type HybridContext, type HybridSequence, placedContext, spreadContext } from "./hybrid_context.js";
import { HybridLane } from "./hybrid_lane.js";
import { HybridTiming } from "./hybrid_timing.js";
import { Transformer } from "./transformer.js";

export interface HybridOptions {
  /**
   * The pool `[slots, elements_per_page]` in host memory, of the cache's page format; page-locked for a GPU (`allocateHostTensor`). Default:
   * the host pool of the model's tiers, and for sequences that are given without `hostSlots` no other will do.
   */
  hostPages?: Tensor | undefined;
  /** Sequences without `hostSlots`: how many of the last pages are brought to the device first; default 1. */
  devicePages?: number | undefined;
  /** By sequence; default greedy. */
  sampling?: readonly Sampling[] | undefined;
  /** Share of the host pages that the CPU reads, 0 to 1; 0 streams all of them. Default: what measured rates say, anew each step. */
  cpuShare?: number | undefined;
  /** Most pages that are streamed and attended to at a time; default 128. */
  chunkPages?: number | undefined;
  /** Chunks that are on their way or in use at once: with `chunkPages` it says what staging takes on the device. Default 4. */
  ringChunks?: number | undefined;
}

/** What of a model takes part. */
export interface HybridPlace {
  transformer: Transformer;
  modelStream: Stream;
  tiers: CacheTiers | undefined;
  /** Of the tiers. */
  hostPool: Tensor | undefined;
}

export interface HybridParts extends HybridPlace {
  /** With buffers of its own: other passes of the model come in between. */
  transformer: Transformer;
  stream: Stream;
  program: DecodeProgram;
  contexts: readonly HybridContext[];
  sampling: readonly Sampling[];
  cpuShare: number | undefined;
  hostPages: Tensor;
  chunkPages: number;
  lane: HybridLane;
  attention: HybridAttention;
  timing: HybridTiming;
}

const optionNames = ["hostPages", "devicePages", "sampling", "cpuShare", "chunkPages", "ringChunks"];

/** @throws as `model.decodeHybrid` */
export async function openHybrid(
  place: HybridPlace,
  sequences: readonly (Sequence | HybridSequence)[],
  options: HybridOptions,
): Promise<HybridParts> {
  const { device, cache, store, config } = place.transformer.parts;
  const { format } = checkCache(cache);
  checkOptions("decodeHybrid", options, optionNames);
  const rows = checkInteger("sequences.length", sequences.length, 1, place.transformer.maxRows);
  const hostPages = checkPool(options.hostPages ?? place.hostPool, format);
  const { chunkPages, ringChunks, sampling, cpuShare } = checkHybrid(options, rows);
  const contexts: HybridContext[] = [];
  const parts: Partial<HybridParts> = {};
  try {
    for (const sequence of sequences) contexts.push(await contextOf(place, sequence, hostPages, options.devicePages));
    const stream = device.createStream();
    parts.stream = stream;
    const transformer = new Transformer(place.transformer.parts, rows);
    parts.transformer = transformer;
    const isGreedy = sampling.every(({ temperature = 0 }) => temperature === 0);
    const program = new DecodeProgram(transformer, stream, rows, isGreedy);
    parts.program = program;
    const lane = new HybridLane({ device, stream, hostPages, numLayers: format.numLayers, chunkPages, ringChunks });
    parts.lane = lane;
    const timing = new HybridTiming(format.numLayers);
    const host = hostPages.device;
    const shared = { device, stream, host, store, format, hostPages, lane, rows, numQoHeads: config.numQoHeads };
    const attention = await HybridAttention.create({ ...shared, sampledLayers: timing.layers });
    const made = { stream, transformer, program, lane, attention, timing };
    return { ...place, ...made, contexts, sampling, cpuShare, hostPages, chunkPages };
  } catch (error) {
    for (const context of contexts) context[Symbol.dispose]();
    disposeHybrid(parts);
    throw error;
  }
}

/** Frees what `openHybrid` made; what was enqueued runs to its end. */
export function disposeHybrid({ lane, attention, program, transformer, stream }: Partial<HybridParts>): void {
  for (const part of [lane, attention, program, transformer, stream]) part?.dispose();
}

async function contextOf(
  { transformer, tiers, hostPool }: HybridPlace,
  sequence: Sequence | HybridSequence,
  hostPages: Tensor,
  devicePages: number | undefined,
): Promise<HybridContext> {
  const { cache } = transformer.parts;
  if (!(sequence instanceof Sequence)) return placedContext(cache, sequence, hostPages.shape[0] as number);
  if (tiers === undefined || hostPages !== hostPool) {
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      "sequences is given one without hostSlots, expected a model with tiers.host, and no hostPages",
    );
  }
  await tiers.spread(sequence, { devicePages });
  return spreadContext(cache, sequence);
}

/** @throws ERR_KVASIR_UNSUPPORTED for caches whose host pages cannot be attended to in any order */
function checkCache(cache: KvCache): KvCache["groups"][number] {
  const [group, ...others] = cache.groups;
  const reason =
    group === undefined || others.length > 0
      ? `the cache has ${cache.groups.length} layer groups`
      : group.layers.window !== undefined
        ? "its layers have a window, and see no page that left it"
        : group.format.storeRotated
          ? undefined
          : "keys are stored before RoPE";
  if (group !== undefined && reason === undefined) return group;
  throw new KvasirError(
    "ERR_KVASIR_UNSUPPORTED",
    `decodeHybrid: ${reason}, expected one group without a window, with keys stored after RoPE`,
  );
}

function checkPool(hostPages: unknown, format: PageFormat): Tensor {
  if (hostPages === undefined) {
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      "hostPages is missing: give the pool in host memory, or load the model with tiers.host",
    );
  }
  if (!(hostPages instanceof Tensor) || hostPages.device.backend !== "cpu") {
    const found = hostPages instanceof Tensor ? `a tensor on ${hostPages.device.backend}` : describe(hostPages);
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `hostPages is ${found}, expected a tensor of a CPU device`);
  }
  const elements = format.offsets.length * format.pageSize * format.headDim;
  if (hostPages.dtype === format.dtype && hostPages.shape.length === 2 && hostPages.shape[1] === elements) return hostPages;
  throw new KvasirError(
    "ERR_KVASIR_SHAPE",
    `hostPages is ${hostPages.dtype} ${shapeText(hostPages.shape)}, expected ${format.dtype} [slots, ${elements}], from the cache's pages`,
  );
}

interface HybridSettings {
  chunkPages: number;
  ringChunks: number;
  sampling: readonly Sampling[];
  cpuShare: number | undefined;
}

function checkHybrid(options: HybridOptions, count: number): HybridSettings {
  const sampling = options.sampling ?? Array.from({ length: count }, () => ({}));
  if (sampling.length !== count) {
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      `sampling has ${sampling.length} entries, expected ${count}, one per sequence`,
    );
  }
  sampling.forEach(checkSampling);
  const { cpuShare } = options;
  if (cpuShare !== undefined && !(cpuShare >= 0 && cpuShare <= 1)) {
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `cpuShare is ${describe(cpuShare)}, expected a number from 0 to 1`);
  }
  return {
    sampling,
    cpuShare,
    chunkPages: checkInteger("chunkPages", options.chunkPages ?? 128, 1, 1 << 20),
    ringChunks: checkInteger("ringChunks", options.ringChunks ?? 4, 1, 64),
  };
}
