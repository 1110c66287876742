/** Shapes of models with random weights that suites run: the fields of a config.json that cost follows from. */
export interface ModelShape {
  num_hidden_layers: number;
  hidden_size: number;
  intermediate_size: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  head_dim: number;
  vocab_size: number;
  tie_word_embeddings?: boolean;
}

export const llama8b: ModelShape = {
  num_hidden_layers: 32,
  hidden_size: 4096,
  intermediate_size: 14336,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  head_dim: 128,
  vocab_size: 128256,
};

/** What a machine without a GPU steps through in a moment. */
export const llamaSmall: ModelShape = {
  num_hidden_layers: 4,
  hidden_size: 1024,
  intermediate_size: 2816,
  num_attention_heads: 16,
  num_key_value_heads: 4,
  head_dim: 64,
  vocab_size: 32000,
};

/** A config.json of that shape. */
export const llamaConfig = (shape: ModelShape): Record<string, unknown> => ({
  architectures: ["LlamaForCausalLM"],
  max_position_embeddings: 131072,
  rope_theta: 500000,
  ...shape,
});
