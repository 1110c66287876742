/** What a hybrid decode is made of: arguments checked, and everything allocated before the first step. */
import type { KvCache } from "../cache/kv_cache.js";
import type { PageFormat } from "../cache/page_format.js";
import { KvasirError } from "../errors.js";
import { checkInteger, checkOptions, describe } from "../options.js";
import { shapeText } from "../shape.js";
import type { Stream } from "../stream.js";
import { Tensor } from "../tensor.js";
import { checkSampling, type DecodeProgram, type DecodePrograms, type Sampling } from "./decode_program.js";
import { HybridAttention } from "./hybrid_attention.js";
import { type HybridContext, type HybridSequence, placedContext } from "./hybrid_context.js";
import { HybridLane } from "./hybrid_lane.js";
import { HybridTiming } from "./hybrid_timing.js";
import type { Transformer } from "./transformer.js";

export interface HybridOptions {
  /** The pool `[slots, elements_per_page]` in host memory, of the cache's page format; page-locked for a GPU (`allocateHostTensor`). */
  hostPages: Tensor;
  /** By sequence; default greedy. */
  sampling?: readonly Sampling[] | undefined;
  /** Share of the host pages that the CPU reads, 0 to 1; 0 streams all of them. Default: what measured rates say, anew each step. */
  cpuShare?: number | undefined;
  /** Most pages that are streamed and attended to at a time; default 128. */
  chunkPages?: number | undefined;
  /** Chunks that are on their way or in use at once: with `chunkPages` it says what staging takes on the device. Default 4. */
  ringChunks?: number | undefined;
}

export interface HybridParts {
  transformer: Transformer;
  stream: Stream;
  programs: DecodePrograms;
  program: DecodeProgram;
  contexts: readonly HybridContext[];
  options: HybridOptions;
  chunkPages: number;
  lane: HybridLane;
  attention: HybridAttention;
  timing: HybridTiming;
}

const optionNames = ["hostPages", "sampling", "cpuShare", "chunkPages", "ringChunks"];

/** @throws as `model.decodeHybrid` */
export async function openHybrid(
  transformer: Transformer,
  stream: Stream,
  programs: DecodePrograms,
  sequences: readonly HybridSequence[],
  options: HybridOptions,
): Promise<HybridParts> {
  const { device, cache, store, config } = transformer.parts;
  const { format } = checkCache(cache);
  const { chunkPages, ringChunks, hostPages, sampling } = checkHybrid(options, format, sequences.length);
  const contexts = sequences.map((sequence) => placedContext(cache, sequence, hostPages.shape[0] as number));
  const program = programs.take(
    sequences.length,
    sampling.every(({ temperature = 0 }) => temperature === 0),
  );
  let lane: HybridLane | undefined;
  try {
    lane = new HybridLane({ device, stream, hostPages, numLayers: format.numLayers, chunkPages, ringChunks });
    const timing = new HybridTiming(format.numLayers);
    const { rows } = program;
    const host = hostPages.device;
    const shared = { device, stream, host, store, format, hostPages, lane, rows, numQoHeads: config.numQoHeads };
    const attention = await HybridAttention.create({ ...shared, sampledLayers: timing.layers });
    return { transformer, stream, programs, program, contexts, options, chunkPages, lane, attention, timing };
  } catch (error) {
    lane?.dispose();
    programs.give(program);
    throw error;
  }
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

function checkHybrid(
  options: HybridOptions,
  format: PageFormat,
  count: number,
): { chunkPages: number; ringChunks: number; hostPages: Tensor; sampling: readonly Sampling[] } {
  checkOptions("decodeHybrid", options, optionNames);
  const hostPages: unknown = options?.hostPages;
  if (!(hostPages instanceof Tensor) || hostPages.device.backend !== "cpu") {
    const found = hostPages instanceof Tensor ? `a tensor on ${hostPages.device.backend}` : describe(hostPages);
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `hostPages is ${found}, expected a tensor of a CPU device`);
  }
  const elements = format.offsets.length * format.pageSize * format.headDim;
  if (hostPages.dtype !== format.dtype || hostPages.shape.length !== 2 || hostPages.shape[1] !== elements) {
    throw new KvasirError(
      "ERR_KVASIR_SHAPE",
      `hostPages is ${hostPages.dtype} ${shapeText(hostPages.shape)}, expected ${format.dtype} [slots, ${elements}], from the cache's pages`,
    );
  }
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
    hostPages,
    sampling,
    chunkPages: checkInteger("chunkPages", options.chunkPages ?? 128, 1, 1 << 20),
    ringChunks: checkInteger("ringChunks", options.ringChunks ?? 4, 1, 64),
  };
}
