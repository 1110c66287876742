/** A model on a device: weights, cache and programs, made from the folder of a Hugging Face checkpoint, or from a config alone. */
import { createHash } from "node:crypto";
import type { CacheTiers } from "../cache/cache_tiers.js";
import { DevicePageStore } from "../cache/device_store.js";
import { evictionPolicy } from "../cache/eviction_policies.js";
import { KvCache } from "../cache/kv_cache.js";
import type { LayerGroup } from "../cache/page_format.js";
import type { Sequence } from "../cache/sequence.js";
import type { Device } from "../device.js";
import type { DType } from "../dtype.js";
import { KvasirError } from "../errors.js";
import { checkInteger, checkOptions } from "../options.js";
import { type RootKeyOptions, rootKey } from "../page_keys.js";
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { type ModelConfig, parseConfig, readConfig } from "./config.js";
import { DecodeBatch, type DecodeOptions } from "./decode.js";
import { DecodePrograms, type Sampling } from "./decode_program.js";
import { type GeneratedToken, type GenerateOptions, generate } from "./generate.js";
import type { HybridSequence } from "./hybrid_context.js";
import { HybridDecode } from "./hybrid_decode.js";
import { type HybridOptions, openHybrid } from "./hybrid_open.js";
import { type PrefillItem, type PrefillOptions, prefill } from "./prefill.js";
import { randomWeights } from "./random_weights.js";
import { ropeFrequencies } from "./rope.js";
import { Runner } from "./runner.js";
import { openCheckpoint } from "./safetensors.js";
import { type OpenTiers, openTiers, type TierOptions, tierSizes } from "./tiers.js";
import { readTokenizer, type Tokenizer } from "./tokenizer.js";
import { Transformer } from "./transformer.js";
import { checkpointSource, type LoadProgress, makeWeights, type Weights } from "./weights.js";
import { weightsDigest } from "./weights_digest.js";

export interface ModelOptions {
  /** Of weights, activations and cache; default f32 on the CPU, bf16 on CUDA. */
  dtype?: "f32" | "f16" | "bf16" | undefined;
  /** Tokens that the cache has room for, over all sequences; default the model's positions, at most 32768. */
  cacheTokens?: number | undefined;
  /** Longest sequence; it fixes dynamic RoPE scaling. Default the model's positions. */
  maxLength?: number | undefined;
  /** Tokens per page; default 64. */
  pageSize?: number | undefined;
  /** Most tokens of one pass; default 512 on the CPU, 2048 on CUDA. */
  chunkTokens?: number | undefined;
  /** A sequence's results are the same bits whatever else is in its batch and however it is cut into passes. Default false. */
  batchInvariant?: boolean | undefined;
  /** Keys are stored after RoPE; default true. */
  storeRotated?: boolean | undefined;
  /** Memory below the cache's own pages: host pool, disk, shared store. Default none. */
  tiers?: TierOptions | undefined;
  onProgress?: LoadProgress | undefined;
}

const optionNames: readonly string[] = [
  "dtype",
  "cacheTokens",
  "maxLength",
  "pageSize",
  "chunkTokens",
  "batchInvariant",
  "storeRotated",
  "tiers",
  "onProgress",
];
/** Pages beyond `cacheTokens`: tail pages that are copied for forks. */
const sparePages = 32;

/**
 * Loads a checkpoint (config.json, safetensors, tokenizer.json) onto a device.
 *
 * @throws ERR_KVASIR_CORRUPT_FILE, ERR_KVASIR_MISSING_TENSOR, ERR_KVASIR_SHAPE, ERR_KVASIR_UNSUPPORTED_MODEL, ERR_KVASIR_OUT_OF_MEMORY,
 * ERR_KVASIR_UNKNOWN_OPTION
 *
 * @example
 * ```ts
 * import { loadModel, openDevice } from "kvasir";
 *
 * using device = openDevice();
 * using model = await loadModel(device, "examples/model");
 * for await (const { text } of model.generate("Call me", { maxTokens: 32 })) process.stdout.write(text);
 * ```
 */
export async function loadModel(device: Device, directory: string, options: ModelOptions = {}): Promise<Model> {
  checkOptions("loadModel", options, optionNames);
  const config = await readConfig(directory);
  const tokenizer = await readTokenizer(directory);
  const checkpoint = await openCheckpoint(directory);
  const dtype = modelDType(device, options);
  const source = checkpointSource(device, device.stream, checkpoint, options.onProgress);
  const weights = await makeWeights(device, config, dtype, source);
  const digest = options.tiers === undefined ? "" : (options.tiers.modelId ?? (await weightsDigest(config, checkpoint)));
  return makeModel(device, config, tokenizer, weights, dtype, options, digest);
}

export interface RandomModelOptions extends Omit<ModelOptions, "onProgress"> {
  /** The same seed gives the same weights. Default 0. */
  seed?: number | undefined;
}

/**
 * A model of the given shape with random weights and no tokenizer: what a config costs in memory and time, without its checkpoint.
 * `config` holds the fields of a Hugging Face config.json.
 *
 * @throws ERR_KVASIR_UNSUPPORTED_MODEL, ERR_KVASIR_OUT_OF_MEMORY, ERR_KVASIR_UNKNOWN_OPTION
 *
 * @example
 * ```ts
 * import { openDevice, randomModel } from "kvasir";
 *
 * const config = {
 *   architectures: ["LlamaForCausalLM"],
 *   hidden_size: 256,
 *   intermediate_size: 512,
 *   num_hidden_layers: 2,
 *   num_attention_heads: 4,
 *   vocab_size: 1000,
 * };
 * using device = openDevice();
 * using model = await randomModel(device, config, { cacheTokens: 1024 });
 * using sequence = model.createSequence();
 * using logits = await model.prefill([{ sequence, tokens: [1, 2, 3] }]);
 * console.log(logits.shape); // [ 1, 1000 ]
 * ```
 */
export async function randomModel(
  device: Device,
  config: Readonly<Record<string, unknown>>,
  options: RandomModelOptions = {},
): Promise<Model> {
  const { seed = 0, ...rest } = options;
  checkOptions("randomModel", options, [...optionNames.filter((name) => name !== "onProgress"), "seed"]);
  checkInteger("seed", seed, -0x80000000, 0x7fffffff);
  const parsed = parseConfig(config, "config");
  const dtype = modelDType(device, rest);
  const weights = await randomWeights(device, device.stream, parsed, dtype, seed);
  const digest = options.tiers?.modelId ?? `random ${seed} ${JSON.stringify(config)}`;
  return makeModel(device, parsed, undefined, weights, dtype, rest, digest);
}

function modelDType(device: Device, options: ModelOptions): DType {
  const dtype = options.dtype ?? (device.backend === "cuda" ? "bf16" : "f32");
  if (["f32", "f16", "bf16"].includes(dtype)) return dtype;
  throw new KvasirError("ERR_KVASIR_DTYPE", `dtype is ${dtype}, expected f32, f16 or bf16`);
}

/** Takes the weights over, also when it throws. `digest` tells them apart. */
async function makeModel(
  device: Device,
  config: ModelConfig,
  tokenizer: Tokenizer | undefined,
  weights: Weights,
  dtype: DType,
  options: ModelOptions,
  digest: string,
): Promise<Model> {
  let model: Model | undefined;
  try {
    model = new Model(device, config, tokenizer, weights, dtype, options);
    if (options.tiers !== undefined) await model.openTiers(options.tiers, digest);
    return model;
  } catch (error) {
    if (model === undefined) weights.dispose();
    else model.dispose();
    throw error;
  }
}

export class Model implements Disposable {
  readonly device: Device;
  /** Everything of this model runs on it, in order. */
  readonly stream: Stream;
  readonly config: ModelConfig;
  readonly dtype: DType;
  readonly cache: KvCache;
  /** The cache's pages on the device. */
  readonly store: DevicePageStore;
  /** Single passes and batches whose members change, for schedulers. @internal */
  readonly runner: Runner;
  readonly #tokenizer: Tokenizer | undefined;
  readonly #weights: Weights;
  readonly #transformer: Transformer;
  readonly #programs: DecodePrograms;
  readonly #rope: string;
  #tiers: OpenTiers | undefined;
  #fingerprint: Uint8Array = new Uint8Array(16);
  #closed: Promise<void> | undefined;
  #disposed = false;

  /** @internal */
  constructor(
    device: Device,
    config: ModelConfig,
    tokenizer: Tokenizer | undefined,
    weights: Weights,
    dtype: DType,
    options: ModelOptions,
  ) {
    this.device = device;
    this.stream = device.stream;
    this.config = config;
    this.dtype = dtype;
    const pageSize = options.pageSize ?? 64;
    const cacheTokens = checkInteger("cacheTokens", options.cacheTokens ?? Math.min(config.maxPositions, 32768), 1);
    const chunkTokens = checkInteger("chunkTokens", options.chunkTokens ?? (device.backend === "cuda" ? 2048 : 512), 1);
    const maxLength = checkInteger("maxLength", options.maxLength ?? config.maxPositions, 1);
    const maxPages = Math.ceil(cacheTokens / pageSize) + sparePages;
    const layers = Array.from({ length: config.numLayers }, (_, layer) => layer);
    const groups: LayerGroup[] = [{ layers, numKvHeads: config.numKvHeads, headDim: config.headDim, dtype }];
    const { invFreq, scale } = ropeFrequencies(config.rope, maxLength);
    this.#rope = `rope ${scale} ${createHash("sha256").update(invFreq).digest("hex").slice(0, 16)}`;
    const { hostPages, farPages } = tierSizes(options.tiers, groups, pageSize);
    const storeRotated = options.storeRotated ?? true;
    this.store = new DevicePageStore(device, this.stream, groups, pageSize, maxPages);
    const policy = evictionPolicy(options.tiers?.policy ?? "lru");
    const pages = { maxPages, hostPages, farPages, policies: [policy, policy] };
    this.cache = new KvCache({ groups, pageSize, storeRotated, ...pages }, this.store);
    this.#tokenizer = tokenizer;
    this.#weights = weights;
    this.#transformer = new Transformer(
      {
        device,
        config,
        weights,
        cache: this.cache,
        store: this.store,
        dtype,
        batchInvariant: options.batchInvariant ?? false,
        invFreq: device.tensor("f32", [invFreq.length], invFreq),
        ropeScale: scale,
      },
      chunkTokens,
    );
    this.#programs = new DecodePrograms(this.#transformer, this.stream);
    this.runner = new Runner(this.#transformer, this.stream, this.#programs);
  }

  /** Whether it has a tokenizer: a random model has none. */
  get hasTokenizer(): boolean {
    return this.#tokenizer !== undefined;
  }

  /** @throws ERR_KVASIR_INVALID_ARGUMENT for a model without one */
  get tokenizer(): Tokenizer {
    if (this.#tokenizer !== undefined) return this.#tokenizer;
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", "model has no tokenizer; give tokens to prefill and decode instead");
  }

  /** What moves pages between the device and the tiers below it; absent without `tiers`. */
  get tiers(): CacheTiers | undefined {
    return this.#tiers?.tiers;
  }

  /** An empty sequence of this model's cache. It shares pages only with sequences of the same salt and extras. */
  createSequence(sharing: Omit<RootKeyOptions, "fingerprint"> = {}): Sequence {
    checkOptions("createSequence", sharing, ["salt", "extras"]);
    return this.cache.createSequence(rootKey({ fingerprint: this.#fingerprint, ...sharing }));
  }

  /** @internal */
  async openTiers(options: TierOptions, digest: string): Promise<void> {
    const { device, stream, cache, store } = this;
    // Bits differ between backends and modes, so that stores shared by several keep them apart.
    const mode = this.#transformer.parts.batchInvariant ? `batch-invariant on ${device.backend}` : "";
    const identity = { model: [digest, this.#rope, mode].join(" ").trim() };
    this.#tiers = await openTiers({ device, stream, cache, store, identity }, options);
    this.#fingerprint = this.#tiers.fingerprint;
  }

  /** Tokens of a text; `isStart` puts the model's beginning-of-text token before them. */
  encodePrompt(text: string, isStart: boolean): number[] {
    const tokens = this.tokenizer.encode(text);
    return isStart && this.config.bosToken !== undefined ? [this.config.bosToken, ...tokens] : tokens;
  }

  /**
   * Reads tokens into sequences, several at once, in passes of `chunkTokens`. Returns the logits `[items, vocab]` f32 after each item's last
   * token; dispose them.
   * @throws ERR_KVASIR_OUT_OF_PAGES, and then no sequence has changed
   */
  prefill(items: readonly PrefillItem[], options: PrefillOptions = {}): Promise<Tensor> {
    checkOptions("prefill", options, ["signal", "onProgress", "onLogits", "resumptions"]);
    return prefill(this.#transformer, this.stream, items, options);
  }

  /** A batch that grows each sequence by one token per step; `sampling` by sequence, default greedy. */
  decode(sequences: readonly Sequence[], sampling?: readonly Sampling[], options: DecodeOptions = {}): DecodeBatch {
    checkOptions("decode", options, ["recorded"]);
    const each = sampling ?? sequences.map(() => ({}));
    return new DecodeBatch(this.#transformer, this.stream, this.#programs, sequences, each, options);
  }

  /**
   * A batch whose sequences have pages in host memory: the device, the CPU and the link between them share each step's attention. A suspended
   * sequence of a model with `tiers.host` decodes with its pages where they are, and is suspended again when the batch is disposed; of a
   * `HybridSequence` the caller says where they are. Results are those of `decode` but for rounding.
   * @throws (rejection) ERR_KVASIR_UNSUPPORTED for a cache with windows, or with keys stored before RoPE; ERR_KVASIR_OUT_OF_PAGES where the
   * device has no room for `devicePages`; ERR_KVASIR_OUT_OF_MEMORY, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_SHAPE,
   * ERR_KVASIR_PAGE_OUT_OF_RANGE, ERR_KVASIR_UNKNOWN_OPTION, ERR_KVASIR_DISPOSED
   */
  async decodeHybrid(sequences: readonly (Sequence | HybridSequence)[], options: HybridOptions = {}): Promise<HybridDecode> {
    const place = {
      transformer: this.#transformer,
      modelStream: this.stream,
      tiers: this.tiers,
      hostPool: this.#tiers?.hostPages[0],
    };
    return new HybridDecode(await openHybrid(place, sequences, options));
  }

  /** Continues a prompt, token by token; see `GenerateOptions`. */
  generate(prompt: string | readonly number[], options: GenerateOptions = {}): AsyncGenerator<GeneratedToken> {
    return generate(this, prompt, options);
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  /** `dispose` that resolves when everything under way in the tiers is over too: what was written to disk or store is findable then. */
  async close(): Promise<void> {
    this.dispose();
    await this.#closed;
  }

  /** Frees everything on the device; enqueued work runs to its end. A no-op the second time. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#closed = this.#tiers?.close();
    this.#closed?.catch(() => undefined); // `close` tells
    this.#programs.dispose();
    this.#transformer.dispose();
    this.#transformer.parts.invFreq.dispose();
    this.store.dispose();
    this.#weights.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
