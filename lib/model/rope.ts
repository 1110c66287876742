/**
 * Rotary position embedding: inverse frequencies and the factor on cos and sin, by Hugging Face's scaling types.
 * Base: RoFormer (arXiv 2104.09864), inv_freq[i] = theta^(-2i / rotary_dim). linear: position interpolation (2306.15595). dynamic: NTK-aware
 * base for a given sequence length. llama3: wavelength-dependent interpolation. yarn: 2309.00071, with its attention factor.
 * Frequencies are rounded to f32 where the reference implementation does.
 */
import type { KvasirError } from "../errors.js";

export type RopeType = "default" | "linear" | "dynamic" | "llama3" | "yarn";

export interface RopeConfig {
  type: RopeType;
  theta: number;
  rotaryDim: number;
  /** Positions of the config: the reference length of dynamic and yarn. */
  maxPositions: number;
  factor: number;
  originalMaxPositions: number | undefined;
  lowFreqFactor: number;
  highFreqFactor: number;
  betaFast: number;
  betaSlow: number;
  attentionFactor: number | undefined;
  mscale: number | undefined;
  mscaleAllDim: number | undefined;
  truncate: boolean;
}

export interface RopeFrequencies {
  /** [rotary_dim / 2] */
  invFreq: Float32Array;
  /** On cos and sin. */
  scale: number;
}

const types: readonly string[] = ["default", "linear", "dynamic", "llama3", "yarn"];

/** Reads rope_parameters (newer configs) or rope_scaling with rope_theta (older ones). */
export function readRope(
  json: Record<string, unknown>,
  headDim: number,
  maxPositions: number,
  unsupported: (what: string) => KvasirError,
): RopeConfig {
  const given = json.rope_parameters ?? json.rope_scaling ?? {};
  if (typeof given !== "object" || given === null)
    throw unsupported(`rope_scaling is ${JSON.stringify(given)}, expected an object`);
  const scaling = given as Record<string, unknown>;
  const type = scaling.rope_type ?? scaling.type ?? "default";
  if (typeof type !== "string" || !types.includes(type)) {
    throw unsupported(`rope type ${JSON.stringify(type)} is not supported; supported: ${types.join(", ")}`);
  }
  const optional = (name: string): number | undefined => {
    const value = scaling[name];
    if (value === undefined || value === null) return undefined;
    if (typeof value !== "number" || !Number.isFinite(value)) {
      throw unsupported(`${name} of the rope scaling is ${JSON.stringify(value)}, expected a finite number`);
    }
    return value;
  };
  const theta = optional("rope_theta") ?? (json.rope_theta === undefined ? 10000 : json.rope_theta);
  if (typeof theta !== "number" || !(theta > 0))
    throw unsupported(`rope_theta is ${JSON.stringify(theta)}, expected a number above 0`);
  const partial =
    optional("partial_rotary_factor") ?? (typeof json.partial_rotary_factor === "number" ? json.partial_rotary_factor : 1);
  const originalMaxPositions = optional("original_max_position_embeddings");
  const factor = optional("factor") ?? (originalMaxPositions === undefined ? undefined : maxPositions / originalMaxPositions);
  if (type !== "default" && !(factor !== undefined && factor > 0)) {
    throw unsupported(`rope type "${type}" needs a factor above 0, got ${JSON.stringify(scaling.factor)}`);
  }
  const config: RopeConfig = {
    type: type as RopeType,
    theta,
    rotaryDim: Math.floor(headDim * partial),
    maxPositions,
    factor: factor ?? 1,
    originalMaxPositions,
    lowFreqFactor: optional("low_freq_factor") ?? 1,
    highFreqFactor: optional("high_freq_factor") ?? 4,
    betaFast: optional("beta_fast") || 32,
    betaSlow: optional("beta_slow") || 1,
    attentionFactor: optional("attention_factor"),
    mscale: optional("mscale"),
    mscaleAllDim: optional("mscale_all_dim"),
    truncate: scaling.truncate !== false,
  };
  if (config.type === "llama3" && !(config.highFreqFactor > config.lowFreqFactor)) {
    throw unsupported(
      `high_freq_factor is ${config.highFreqFactor}, expected more than low_freq_factor, ${config.lowFreqFactor}`,
    );
  }
  return config;
}

/** Frequencies for sequences of up to `length` tokens. Only the dynamic type depends on it; it is fixed when a model is loaded. */
export function ropeFrequencies(rope: RopeConfig, length: number): RopeFrequencies {
  switch (rope.type) {
    case "default":
      return { invFreq: frequencies(rope.theta, rope.rotaryDim), scale: 1 };
    case "linear":
      return { invFreq: frequencies(rope.theta, rope.rotaryDim).map((f) => f / rope.factor), scale: 1 };
    case "dynamic": {
      const { factor, maxPositions, rotaryDim } = rope;
      const stretch = (factor * Math.max(length, maxPositions)) / maxPositions - (factor - 1);
      return { invFreq: frequencies(rope.theta * stretch ** (rotaryDim / (rotaryDim - 2)), rotaryDim), scale: 1 };
    }
    case "llama3":
      return { invFreq: frequencies(rope.theta, rope.rotaryDim).map((f) => llama3(f, rope)), scale: 1 };
    case "yarn":
      return { invFreq: yarn(rope), scale: yarnScale(rope) };
  }
}

function frequencies(theta: number, rotaryDim: number): Float32Array {
  return Float32Array.from({ length: rotaryDim / 2 }, (_, i) => 1 / Math.fround(theta ** Math.fround((2 * i) / rotaryDim)));
}

/** Long wavelengths are interpolated, short ones kept, and those between blended. */
function llama3(freq: number, { factor, lowFreqFactor, highFreqFactor, originalMaxPositions, maxPositions }: RopeConfig): number {
  const original = originalMaxPositions ?? maxPositions;
  const wavelength = (2 * Math.PI) / freq;
  if (wavelength < original / highFreqFactor) return freq;
  if (wavelength > original / lowFreqFactor) return freq / factor;
  const smooth = (original / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
  return ((1 - smooth) * freq) / factor + smooth * freq;
}

function yarn(rope: RopeConfig): Float32Array {
  const { theta, rotaryDim, factor } = rope;
  const original = rope.originalMaxPositions ?? rope.maxPositions;
  /** Dimension whose pair turns `rotations` times over the original context. */
  const dimension = (rotations: number): number =>
    (rotaryDim * Math.log(original / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
  const [first, last] = [dimension(rope.betaFast), dimension(rope.betaSlow)];
  const low = Math.max(rope.truncate ? Math.floor(first) : first, 0);
  const high = Math.min(rope.truncate ? Math.ceil(last) : last, rotaryDim - 1);
  const width = low === high ? 0.001 : high - low;
  return frequencies(theta, rotaryDim).map((freq, i) => {
    const interpolated = Math.min(1, Math.max(0, (i - low) / width));
    return (freq / factor) * interpolated + freq * (1 - interpolated);
  });
}

function yarnScale({ attentionFactor, factor, mscale, mscaleAllDim }: RopeConfig): number {
  if (attentionFactor !== undefined) return attentionFactor;
  const scale = (weight: number): number => (factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1);
  return mscale && mscaleAllDim ? scale(mscale) / scale(mscaleAllDim) : scale(1);
}
