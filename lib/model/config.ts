/** A checkpoint's config.json, read and judged: everything that the runner needs to know, or one sentence on why it cannot run it. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { KvasirError } from "../errors.js";
import { type Architecture, architectures } from "./llama.js";
import { type RopeConfig, readRope } from "./rope.js";

export interface ModelConfig {
  architecture: Architecture;
  vocabSize: number;
  hiddenSize: number;
  intermediateSize: number;
  numLayers: number;
  numQoHeads: number;
  numKvHeads: number;
  headDim: number;
  rmsNormEps: number;
  /** Positions that the model was trained for. */
  maxPositions: number;
  tieEmbeddings: boolean;
  attentionBias: boolean;
  mlpBias: boolean;
  rope: RopeConfig;
  bosToken: number | undefined;
  eosTokens: readonly number[];
}

type Json = Record<string, unknown>;

/** @throws ERR_KVASIR_CORRUPT_FILE, ERR_KVASIR_UNSUPPORTED_MODEL */
export async function readConfig(directory: string): Promise<ModelConfig> {
  const path = join(directory, "config.json");
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    throw new KvasirError("ERR_KVASIR_CORRUPT_FILE", `${path} cannot be read; give the folder of a Hugging Face checkpoint`, {
      cause: error,
    });
  }
  return parseConfig(parseJson(path, text), path);
}

export function parseJson(path: string, text: string): Json {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Json;
  } catch (error) {
    throw new KvasirError("ERR_KVASIR_CORRUPT_FILE", `${path} is not valid JSON`, { cause: error });
  }
  throw new KvasirError("ERR_KVASIR_CORRUPT_FILE", `${path} does not hold a JSON object`);
}

/** @throws ERR_KVASIR_UNSUPPORTED_MODEL naming the field, its value and what runs. */
export function parseConfig(json: Json, path: string): ModelConfig {
  const unsupported = (what: string): KvasirError => new KvasirError("ERR_KVASIR_UNSUPPORTED_MODEL", `${path}: ${what}`);
  const positive = (field: string, fallback?: number): number => {
    const value = json[field] ?? fallback;
    if (typeof value === "number" && Number.isInteger(value) && value > 0) return value;
    throw unsupported(`${field} is ${JSON.stringify(json[field])}, expected a positive integer`);
  };

  const named = Array.isArray(json.architectures) ? json.architectures.map(String) : [];
  const architecture = named.map((name) => architectures[name]).find((found) => found !== undefined);
  if (architecture === undefined) {
    const known = Object.keys(architectures).join(", ");
    throw unsupported(`architecture ${named.join(", ") || "(none)"} is not supported; supported: ${known}`);
  }
  const activation = json.hidden_act ?? "silu";
  if (activation !== "silu") throw unsupported(`hidden_act ${JSON.stringify(activation)} is not supported; supported: "silu"`);
  if (json.quantization_config !== undefined)
    throw unsupported("quantized weights are not supported; use a f32, f16 or bf16 checkpoint");

  const hiddenSize = positive("hidden_size");
  const numQoHeads = positive("num_attention_heads");
  const numKvHeads = positive("num_key_value_heads", numQoHeads);
  const headDim = positive("head_dim", hiddenSize / numQoHeads);
  if (numQoHeads % numKvHeads !== 0) {
    throw unsupported(`num_attention_heads is ${numQoHeads}, expected a multiple of num_key_value_heads, ${numKvHeads}`);
  }
  const maxPositions = positive("max_position_embeddings", 2048);
  const eps = json.rms_norm_eps ?? 1e-6;
  if (typeof eps !== "number" || !(eps > 0))
    throw unsupported(`rms_norm_eps is ${JSON.stringify(eps)}, expected a number above 0`);
  const eos = json.eos_token_id;
  return {
    architecture,
    vocabSize: positive("vocab_size"),
    hiddenSize,
    intermediateSize: positive("intermediate_size"),
    numLayers: positive("num_hidden_layers"),
    numQoHeads,
    numKvHeads,
    headDim,
    rmsNormEps: eps,
    maxPositions,
    tieEmbeddings: json.tie_word_embeddings === true,
    attentionBias: json.attention_bias === true,
    mlpBias: json.mlp_bias === true,
    rope: readRope(json, headDim, maxPositions, unsupported),
    bosToken: typeof json.bos_token_id === "number" ? json.bos_token_id : undefined,
    eosTokens: (Array.isArray(eos) ? eos : [eos]).filter((id): id is number => typeof id === "number"),
  };
}
