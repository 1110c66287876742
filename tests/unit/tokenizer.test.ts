import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { readTokenizer, TextStream, type Tokenizer } from "../../lib/model/tokenizer.js";

let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await readTokenizer("examples/model");
});

function streamed(tokens: readonly number[]): { pieces: string[]; text: string } {
  const stream = new TextStream(tokenizer);
  const pieces = tokens.map((token) => stream.push(token));
  pieces.push(stream.end());
  return { pieces, text: pieces.join("") };
}

describe("the tokenizer", () => {
  test("gives text back as it was", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", maxLength: 60 }), (text) => {
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
      }),
    );
  });

  test("leaves special tokens out of text", () => {
    const bos = tokenizer.id("<|bos|>") as number;
    expect(tokenizer.decode([bos, ...tokenizer.encode("a b")])).toBe("a b");
  });
});

describe("text that grows token by token", () => {
  test("never shows half a character, and joined is the whole text", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", maxLength: 60 }), (text) => {
        const { pieces, text: joined } = streamed(tokenizer.encode(text));
        expect(joined).toBe(text);
        for (const piece of pieces) expect(piece.includes("\uFFFD")).toBe(text.includes("\uFFFD") && piece.includes("\uFFFD"));
      }),
    );
  });

  test("holds a character of several tokens back until it is whole", () => {
    const tokens = tokenizer.encode("😀");
    expect(tokens.length).toBeGreaterThan(1);
    const { pieces } = streamed(tokens);
    expect(pieces.slice(0, tokens.length - 1).join("")).toBe("");
    expect(pieces[tokens.length - 1]).toBe("😀");
  });

  test("shows what is left of a broken character at the end, and does not wait for ever", () => {
    const [first] = tokenizer.encode("😀") as [number];
    expect(streamed([first]).text).toBe("\uFFFD");
    const { pieces } = streamed(new Array(40).fill(first));
    expect(pieces.slice(0, 20).join("").length).toBeGreaterThan(0);
  });
});
