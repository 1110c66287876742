/** Text that arrives token by token. */
import type { Sequence } from "../cache/sequence.js";
import { checkInteger, checkOptions } from "../options.js";
import type { Sampling } from "./decode_program.js";
import type { Model } from "./model.js";
import { TextStream } from "./tokenizer.js";

export interface GenerateOptions extends Sampling {
  /** Most tokens to make; default 256. */
  maxTokens?: number | undefined;
  /** Tokens that end the text and are not part of it; by default the model's own. */
  stopTokens?: readonly number[] | undefined;
  /** Continue this sequence, which stays the caller's, instead of a new one. */
  sequence?: Sequence | undefined;
  signal?: AbortSignal | undefined;
  /** Called with the prompt tokens that are read. */
  onPrefill?: ((tokens: number) => void) | undefined;
}

export interface GeneratedToken {
  token: number;
  /** What became readable with this token: whole characters only, so it may be empty. The last one carries whatever is left. */
  text: string;
}

/**
 * Continues a prompt. The device runs one step ahead of what is yielded; a continued sequence ends up holding the prompt and the yielded
 * tokens, the last of them possibly left out.
 * @throws ERR_KVASIR_OUT_OF_PAGES, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNKNOWN_OPTION, or the signal's reason.
 */
export async function* generate(
  model: Model,
  prompt: string | readonly number[],
  options: GenerateOptions = {},
): AsyncGenerator<GeneratedToken> {
  checkOptions("generate", options, [
    "maxTokens",
    "stopTokens",
    "sequence",
    "signal",
    "onPrefill",
    "temperature",
    "topK",
    "topP",
    "seed",
  ]);
  const { signal, onPrefill: onProgress } = options;
  const maxTokens = checkInteger("maxTokens", options.maxTokens ?? 256, 1);
  const stops = new Set(options.stopTokens ?? model.config.eosTokens);
  const isNew = options.sequence === undefined || options.sequence.length === 0;
  const tokens = typeof prompt === "string" ? model.encodePrompt(prompt, isNew) : prompt;
  const sequence = options.sequence ?? model.createSequence();
  let keep = sequence.length + tokens.length;
  let isPrefilled = false;
  try {
    using logits = await model.prefill([{ sequence, tokens }], { signal, onProgress });
    isPrefilled = true;
    using batch = model.decode([sequence], [options]);
    let coming = batch.start(logits);
    const text = new TextStream(model.tokenizer);
    let held: GeneratedToken | undefined;
    for (let made = 0; made < maxTokens; made++) {
      signal?.throwIfAborted();
      const isLast = made + 1 === maxTokens;
      const next = isLast ? undefined : batch.step();
      next?.catch(() => undefined); // awaited in the next round, unless the text ends here
      const token = (await coming)[0] as number;
      if (stops.has(token)) break;
      keep++;
      if (held !== undefined) yield held;
      held = { token, text: text.push(token) };
      if (next !== undefined) coming = next;
    }
    if (held !== undefined) yield { token: held.token, text: held.text + text.end() };
  } finally {
    if (options.sequence === undefined) sequence.dispose();
    else if (isPrefilled && !sequence.disposed) sequence.truncate(Math.min(sequence.length, keep));
  }
}
