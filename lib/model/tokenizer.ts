/** Text to tokens and back, from tokenizer.json, and text that grows token by token without ever showing half a character. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { KvasirError } from "../errors.js";
import { parseJson } from "./config.js";

/** What we use of the package, whose own types do not resolve under Node's module rules. */
interface Codec {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
  decode(ids: number[], options: { skip_special_tokens: boolean }): string;
  token_to_id(content: string): number | undefined;
}

export class Tokenizer {
  readonly #inner: Codec;

  constructor(json: object) {
    // Clean-up would rewrite spaces before punctuation: text must come back as it was.
    this.#inner = new HuggingFaceTokenizer(json, { clean_up_tokenization_spaces: false });
  }

  /** Tokens of the text alone; special tokens (bos, templates) only with `special`. */
  encode(text: string, options: { special?: boolean } = {}): number[] {
    return text === "" && options.special !== true
      ? []
      : this.#inner.encode(text, { add_special_tokens: options.special ?? false }).ids;
  }

  /** Text of the tokens; special tokens are left out. */
  decode(tokens: readonly number[]): string {
    return tokens.length === 0 ? "" : this.#inner.decode(tokens.slice(), { skip_special_tokens: true });
  }

  /** Id of a token by its exact content. */
  id(content: string): number | undefined {
    return this.#inner.token_to_id(content);
  }
}

/** @throws ERR_KVASIR_CORRUPT_FILE */
export async function readTokenizer(directory: string): Promise<Tokenizer> {
  const path = join(directory, "tokenizer.json");
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    throw new KvasirError("ERR_KVASIR_CORRUPT_FILE", `${path} cannot be read`, { cause: error });
  }
  return new Tokenizer(parseJson(path, text));
}

/** Tokens that wait for the rest of a character before text is shown as it is: far more than four bytes of a character can take. */
const maxHeldTokens = 16;
const replacement = "\uFFFD";

/**
 * Turns a stream of tokens into a stream of text. A token may hold only part of a character: text is held back until it is whole.
 * `push` returns what became readable, `end` the rest; joined they equal the decoding of all tokens.
 */
export class TextStream {
  readonly #tokenizer: Tokenizer;
  /** Tokens whose text is not all out, after one or more whose text is: some decoders look at the neighbour. */
  #tokens: number[] = [];
  #shown = 0;

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
  }

  push(token: number): string {
    this.#tokens.push(token);
    const text = this.#fresh();
    const waiting = this.#tokens.length - this.#shown;
    if (text.endsWith(replacement) && waiting < maxHeldTokens) return "";
    this.#tokens = this.#tokens.slice(this.#shown);
    this.#shown = this.#tokens.length;
    return text;
  }

  end(): string {
    const text = this.#fresh();
    this.#tokens = [];
    this.#shown = 0;
    return text;
  }

  #fresh(): string {
    const before = this.#tokenizer.decode(this.#tokens.slice(0, this.#shown));
    return this.#tokenizer.decode(this.#tokens).slice(before.length);
  }
}
