/**
 * Architectures as data: which tensors a checkpoint holds, by what name and in what shape. `{}` stands for the layer. Tensors listed
 * together under one weight are stacked by rows, so that one GEMM computes them all.
 */

/** A dimension of a weight, resolved from the config. */
export type DimName = "vocab" | "hidden" | "intermediate" | "qo_width" | "kv_width";

export interface WeightPart {
  name: string;
  shape: readonly DimName[];
}

export interface LayerWeights<T> {
  attentionNorm: T;
  qkv: T;
  attentionOut: T;
  mlpNorm: T;
  gateUp: T;
  down: T;
}

export interface Architecture {
  embedding: WeightPart;
  finalNorm: WeightPart;
  head: WeightPart;
  layer: LayerWeights<readonly WeightPart[]>;
  /** Biases, where the config's attention_bias or mlp_bias asks for them. */
  attentionBias: { qkv: readonly WeightPart[]; attentionOut: readonly WeightPart[] };
  mlpBias: { gateUp: readonly WeightPart[]; down: readonly WeightPart[] };
}

const attention = "model.layers.{}.self_attn";
const mlp = "model.layers.{}.mlp";

const llama: Architecture = {
  embedding: { name: "model.embed_tokens.weight", shape: ["vocab", "hidden"] },
  finalNorm: { name: "model.norm.weight", shape: ["hidden"] },
  head: { name: "lm_head.weight", shape: ["vocab", "hidden"] },
  layer: {
    attentionNorm: [{ name: "model.layers.{}.input_layernorm.weight", shape: ["hidden"] }],
    qkv: [
      { name: `${attention}.q_proj.weight`, shape: ["qo_width", "hidden"] },
      { name: `${attention}.k_proj.weight`, shape: ["kv_width", "hidden"] },
      { name: `${attention}.v_proj.weight`, shape: ["kv_width", "hidden"] },
    ],
    attentionOut: [{ name: `${attention}.o_proj.weight`, shape: ["hidden", "qo_width"] }],
    mlpNorm: [{ name: "model.layers.{}.post_attention_layernorm.weight", shape: ["hidden"] }],
    gateUp: [
      { name: `${mlp}.gate_proj.weight`, shape: ["intermediate", "hidden"] },
      { name: `${mlp}.up_proj.weight`, shape: ["intermediate", "hidden"] },
    ],
    down: [{ name: `${mlp}.down_proj.weight`, shape: ["hidden", "intermediate"] }],
  },
  attentionBias: {
    qkv: [
      { name: `${attention}.q_proj.bias`, shape: ["qo_width"] },
      { name: `${attention}.k_proj.bias`, shape: ["kv_width"] },
      { name: `${attention}.v_proj.bias`, shape: ["kv_width"] },
    ],
    attentionOut: [{ name: `${attention}.o_proj.bias`, shape: ["hidden"] }],
  },
  mlpBias: {
    gateUp: [
      { name: `${mlp}.gate_proj.bias`, shape: ["intermediate"] },
      { name: `${mlp}.up_proj.bias`, shape: ["intermediate"] },
    ],
    down: [{ name: `${mlp}.down_proj.bias`, shape: ["hidden"] }],
  },
};

/** By the name in config.json's `architectures`. */
export const architectures: Readonly<Record<string, Architecture>> = { LlamaForCausalLM: llama };
