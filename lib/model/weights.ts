/**
 * A model's weights on a device, stacked as the architecture says. Their values come from a source: a checkpoint, read from its files
 * natively and converted to the model's dtype on the device, or any other that can fill a tensor.
 */
import type { Device } from "../device.js";
import type { DType } from "../dtype.js";
import { KvasirError } from "../errors.js";
import { cast } from "../ops/cast.js";
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import type { ModelConfig } from "./config.js";
import type { DimName, LayerWeights, WeightPart } from "./llama.js";
import type { Checkpoint } from "./safetensors.js";

export interface Weights {
  embedding: Tensor;
  finalNorm: Tensor;
  /** The embedding itself where they are tied. */
  head: Tensor;
  layers: LayerWeights<Tensor>[];
  biases: Partial<Record<keyof LayerWeights<Tensor>, Tensor>>[];
  dispose(): void;
}

/** Fills one tensor of the architecture, of the part's shape; `name` is the part's with the layer put in. */
export type WeightSource = (part: WeightPart, name: string, target: Tensor) => Promise<void> | void;

/** Called with the bytes read so far and all bytes to read. */
export type LoadProgress = (done: number, total: number) => void;

/** @throws ERR_KVASIR_OUT_OF_MEMORY, and what the source throws */
export async function makeWeights(device: Device, config: ModelConfig, dtype: DType, source: WeightSource): Promise<Weights> {
  const { architecture } = config;
  const owned: Tensor[] = [];
  const dispose = (): void => {
    for (const tensor of owned) tensor.dispose();
  };

  const load = async (parts: readonly WeightPart[], layer = 0): Promise<Tensor> => {
    const shapes = parts.map((part) => part.shape.map((dim) => dimension(config, dim)));
    const rest = (shapes[0] as number[]).slice(1);
    const out = device.empty(dtype, [shapes.reduce((sum, shape) => sum + (shape[0] as number), 0), ...rest]);
    owned.push(out);
    let row = 0;
    for (const [i, part] of parts.entries()) {
      const rows = shapes[i]?.[0] as number;
      using target = out.slice(row, row + rows);
      row += rows;
      await source(part, part.name.replace("{}", String(layer)), target);
    }
    return out;
  };

  try {
    const embedding = await load([architecture.embedding]);
    const weights: Weights = {
      embedding,
      finalNorm: await load([architecture.finalNorm]),
      head: config.tieEmbeddings ? embedding : await load([architecture.head]),
      layers: [],
      biases: [],
      dispose,
    };
    for (let layer = 0; layer < config.numLayers; layer++) {
      const parts = Object.entries(architecture.layer) as [keyof LayerWeights<Tensor>, readonly WeightPart[]][];
      const tensors: Partial<LayerWeights<Tensor>> = {};
      for (const [key, part] of parts) tensors[key] = await load(part, layer);
      weights.layers.push(tensors as LayerWeights<Tensor>);
      const biases: Weights["biases"][number] = {};
      const wanted = {
        ...(config.attentionBias ? architecture.attentionBias : {}),
        ...(config.mlpBias ? architecture.mlpBias : {}),
      };
      for (const [key, part] of Object.entries(wanted)) biases[key as keyof LayerWeights<Tensor>] = await load(part, layer);
      weights.biases.push(biases);
    }
    return weights;
  } catch (error) {
    dispose();
    throw error;
  }
}

/** The source throws ERR_KVASIR_MISSING_TENSOR, ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE. */
export function checkpointSource(
  device: Device,
  stream: Stream,
  checkpoint: Checkpoint,
  onProgress?: LoadProgress,
): WeightSource {
  const total = checkpoint.names.reduce((sum, name) => sum + checkpoint.entry(name).bytes, 0);
  let done = 0;
  return async (part, name, target) => {
    const entry = checkpoint.entry(name);
    const { shape } = target;
    if (entry.shape.length !== shape.length || entry.shape.some((size, axis) => size !== shape[axis])) {
      throw new KvasirError(
        "ERR_KVASIR_SHAPE",
        `${entry.file}: tensor ${name} is [${entry.shape.join(", ")}], expected [${part.shape.join(", ")}] = [${shape.join(", ")}] from config.json`,
      );
    }
    await read(device, stream, checkpoint, name, target);
    done += entry.bytes;
    onProgress?.(done, total);
  };
}

async function read(device: Device, stream: Stream, checkpoint: Checkpoint, name: string, target: Tensor): Promise<void> {
  const { file, offset } = checkpoint.entry(name);
  const stored = checkpoint.dtype(name);
  if (stored === target.dtype) {
    await target.loadFile(file, offset, { stream });
    return;
  }
  const staging = device.empty(stored, target.shape);
  try {
    await staging.loadFile(file, offset, { stream });
    cast(stream, { x: staging, out: target });
  } finally {
    staging.dispose();
  }
}

function dimension(config: ModelConfig, dim: DimName): number {
  switch (dim) {
    case "vocab":
      return config.vocabSize;
    case "hidden":
      return config.hiddenSize;
    case "intermediate":
      return config.intermediateSize;
    case "qo_width":
      return config.numQoHeads * config.headDim;
    case "kv_width":
      return config.numKvHeads * config.headDim;
  }
}
