/**
 * The layers of a decoder-only transformer as a list of ops on one stream, for tokens of one or many sequences at once. Nothing here
 * waits, allocates or looks at values, so the same code runs eagerly and inside a recorded program.
 *
 * Per layer: norm(x) -> q | k | v -> append (RoPE on q and k, k and v into pages) -> attention over the pages -> projection -> x += it,
 * norm -> gate | up -> silu(gate) * up -> projection; the next norm adds it to x.
 */
import type { DevicePageStore } from "../cache/device_store.js";
import type { KvCache } from "../cache/kv_cache.js";
import type { Device } from "../device.js";
import type { DType } from "../dtype.js";
import { append } from "../ops/append.js";
import { attention } from "../ops/attention.js";
import { embedding } from "../ops/embedding.js";
import { linear } from "../ops/linear.js";
import { rmsNorm } from "../ops/rms_norm.js";
import { siluMul } from "../ops/silu_mul.js";
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import type { ModelConfig } from "./config.js";
import type { LayerWeights } from "./llama.js";
import type { Weights } from "./weights.js";

/** What a forward pass reads from the device besides weights and pages. */
export interface StepInputs {
  /** [total] i32 */
  ids: Tensor;
  /** [total] i32 */
  positions: Tensor;
  /** [batch + 1] i32; absent: as many queries for each request. */
  qoIndptr?: Tensor;
  /** By layer group. */
  groups: readonly {
    /** [total] i32 */
    slotMapping: Tensor;
    /** [batch] i32 */
    rowStart: Tensor;
    /** [batch] i32, the tokens of this pass included. */
    kvLen: Tensor;
  }[];
  /** Attends instead, once the pass's keys and values of a layer are in its pages: `q` and `out` are [total, num_qo_heads, head_dim]. */
  attend?: (layer: number, q: Tensor, out: Tensor) => void;
}

export interface TransformerParts {
  device: Device;
  config: ModelConfig;
  weights: Weights;
  cache: KvCache;
  store: DevicePageStore;
  dtype: DType;
  batchInvariant: boolean;
  invFreq: Tensor;
  ropeScale: number;
}

interface Views {
  x: Tensor;
  normed: Tensor;
  qkv: Tensor;
  q: Tensor;
  k: Tensor;
  v: Tensor;
  attended: Tensor;
  attendedFlat: Tensor;
  projected: Tensor;
  gateUp: Tensor;
  gate: Tensor;
  up: Tensor;
  activated: Tensor;
}

export class Transformer {
  readonly parts: TransformerParts;
  /** Most tokens of one pass. */
  readonly maxRows: number;
  readonly #buffers: Tensor[] = [];
  readonly #full: Omit<Views, "q" | "k" | "v" | "attendedFlat" | "gate" | "up">;
  /** Views of the buffers by number of rows: passes of the same size come again and again. */
  readonly #views: Map<number, Views> = new Map();
  /** Numbers of rows, and of logits, that `prepare` was asked for. */
  readonly #prepared: { rows: Set<number>; ends: Set<number> } = { rows: new Set(), ends: new Set() };
  /** Where each model layer is: its group, and its place in the group. */
  readonly #places: { group: number; layer: number }[] = [];

  constructor(parts: TransformerParts, maxRows: number) {
    this.parts = parts;
    this.maxRows = maxRows;
    const { config, device, dtype } = parts;
    const buffer = (...shape: number[]): Tensor => {
      const tensor = device.empty(dtype, [maxRows, ...shape]);
      this.#buffers.push(tensor);
      return tensor;
    };
    this.#full = {
      x: buffer(config.hiddenSize),
      normed: buffer(config.hiddenSize),
      qkv: buffer((config.numQoHeads + 2 * config.numKvHeads) * config.headDim),
      attended: buffer(config.numQoHeads, config.headDim),
      projected: buffer(config.hiddenSize),
      gateUp: buffer(2 * config.intermediateSize),
      activated: buffer(config.intermediateSize),
    };
    parts.cache.groups.forEach(({ layers }, group) => {
      layers.layers.forEach((modelLayer, layer) => {
        this.#places[modelLayer] = { group, layer };
      });
    });
  }

  /**
   * Runs `rows` tokens; returns their normed hidden states `[rows, hidden]`, valid until the next pass. `beforeLayer` is called before the
   * ops of each layer are enqueued.
   */
  forward(stream: Stream, rows: number, inputs: StepInputs, beforeLayer?: (layer: number) => void): Tensor {
    const pieces = this.layers(stream, rows, inputs);
    for (;;) {
      const { done, value } = pieces.next();
      if (done === true) return value;
      beforeLayer?.(value);
    }
  }

  /** `forward` in pieces: yields each layer's number before its ops are enqueued, for callers that may have to wait in between. */
  *layers(stream: Stream, rows: number, inputs: StepInputs): Generator<number, Tensor, void> {
    const { config, weights } = this.parts;
    const views = this.#viewsOf(rows);
    const { x, normed, projected } = views;
    const eps = config.rmsNormEps;
    embedding(stream, { ids: inputs.ids, table: weights.embedding, out: x });
    for (const [index, layer] of weights.layers.entries()) {
      yield index;
      if (index === 0) rmsNorm(stream, { x, weight: layer.attentionNorm, out: normed, eps });
      else rmsNorm(stream, { x: projected, weight: layer.attentionNorm, residual: x, out: normed, eps });
      this.#linear(stream, index, "qkv", normed, views.qkv);
      this.#attention(stream, index, views, inputs);
      this.#linear(stream, index, "attentionOut", views.attendedFlat, projected);
      rmsNorm(stream, { x: projected, weight: layer.mlpNorm, residual: x, out: normed, eps });
      this.#linear(stream, index, "gateUp", normed, views.gateUp);
      siluMul(stream, { gate: views.gate, up: views.up, out: views.activated });
      this.#linear(stream, index, "down", views.activated, projected);
    }
    rmsNorm(stream, { x: projected, weight: weights.finalNorm, residual: x, out: normed, eps });
    return normed;
  }

  /**
   * Has the device load what the products of a pass of `rows` tokens take, with logits after `ends` of them, where that was not done before.
   * A library loads kernels when it first needs them, and then the driver waits until the device rests: it should not have to wait for
   * pages that are on their way. So this goes before a pass whose layers wait for some.
   */
  prepare(stream: Stream, rows: number, ends: number): void {
    const { device, config } = this.parts;
    if (device.backend === "cpu") return;
    const { normed, qkv, attendedFlat, projected, gateUp, activated } = this.#viewsOf(rows);
    if (!this.#prepared.rows.has(rows)) {
      this.#prepared.rows.add(rows);
      this.#linear(stream, 0, "qkv", normed, qkv);
      this.#linear(stream, 0, "attentionOut", attendedFlat, projected);
      this.#linear(stream, 0, "gateUp", normed, gateUp);
      this.#linear(stream, 0, "down", activated, projected);
    }
    if (ends === 0 || this.#prepared.ends.has(ends)) return;
    this.#prepared.ends.add(ends);
    using hidden = normed.slice(0, ends);
    using logits = device.empty("f32", [ends, config.vocabSize]);
    this.logits(stream, hidden, logits);
  }

  /** logits `[rows, vocab]` f32 of hidden states. */
  logits(stream: Stream, hidden: Tensor, out: Tensor): void {
    linear(stream, { x: hidden, weight: this.parts.weights.head, out, batchInvariant: this.parts.batchInvariant });
  }

  dispose(): void {
    for (const views of this.#views.values()) {
      for (const view of Object.values(views) as Tensor[]) view.dispose();
    }
    this.#views.clear();
    for (const tensor of this.#buffers) tensor.dispose();
  }

  #attention(stream: Stream, index: number, views: Views, inputs: StepInputs): void {
    const { cache, store, invFreq, ropeScale, batchInvariant } = this.parts;
    const place = this.#places[index] as { group: number; layer: number };
    const group = cache.groups[place.group] as (typeof cache.groups)[number];
    const { slotMapping, rowStart, kvLen } = inputs.groups[place.group] as StepInputs["groups"][number];
    const { q, k, v, attended } = views;
    const pages = store.pages(place.group);
    const pageOffsets = store.offsets(place.group, place.layer);
    const { pageSize } = cache;
    const { storeRotated } = group.format;
    append(stream, {
      k,
      v,
      q,
      positions: inputs.positions,
      slotMapping,
      pages,
      pageOffsets,
      invFreq,
      ropeScale,
      pageSize,
      storeRotated,
    });
    if (inputs.attend !== undefined) {
      inputs.attend(index, q, attended);
      return;
    }
    attention(stream, {
      q,
      out: attended,
      pages,
      pageOffsets,
      rowStart,
      kvLen,
      pageIndices: store.pageIndices(place.group),
      pageSize,
      causal: true,
      batchInvariant,
      ...(inputs.qoIndptr === undefined ? {} : { qoIndptr: inputs.qoIndptr }),
      ...(group.layers.window === undefined ? {} : { windowLeft: group.layers.window - 1 }),
      ...(storeRotated ? {} : { kInvFreq: invFreq, kRopeScale: ropeScale }),
    });
  }

  #linear(stream: Stream, index: number, key: keyof LayerWeights<Tensor>, x: Tensor, out: Tensor): void {
    const { weights, batchInvariant } = this.parts;
    const weight = (weights.layers[index] as LayerWeights<Tensor>)[key];
    const bias = weights.biases[index]?.[key];
    linear(stream, { x, weight, out, batchInvariant, ...(bias === undefined ? {} : { bias }) });
  }

  #viewsOf(rows: number): Views {
    const known = this.#views.get(rows);
    if (known !== undefined) return known;
    const { numQoHeads, numKvHeads, headDim, intermediateSize } = this.parts.config;
    const full = this.#full;
    const qkv = full.qkv.slice(0, rows);
    const gateUp = full.gateUp.slice(0, rows);
    const attended = full.attended.slice(0, rows);
    const width = (numQoHeads + 2 * numKvHeads) * headDim;
    const heads = (first: number, count: number): Tensor =>
      qkv.view({ offset: first * headDim, shape: [rows, count, headDim], strides: [width, headDim, 1] });
    const half = (offset: number): Tensor =>
      gateUp.view({ offset, shape: [rows, intermediateSize], strides: [2 * intermediateSize, 1] });
    const views: Views = {
      x: full.x.slice(0, rows),
      normed: full.normed.slice(0, rows),
      qkv,
      q: heads(0, numQoHeads),
      k: heads(numQoHeads, numKvHeads),
      v: heads(numQoHeads + numKvHeads, numKvHeads),
      attended,
      attendedFlat: attended.reshape([rows, numQoHeads * headDim]),
      projected: full.projected.slice(0, rows),
      gateUp,
      gate: half(0),
      up: half(intermediateSize),
      activated: full.activated.slice(0, rows),
    };
    this.#views.set(rows, views);
    return views;
  }
}
