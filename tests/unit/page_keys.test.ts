/** Page keys against an independent computation by node:crypto, on both SHA-256 paths; roots that must differ, differ. */
import { spawnSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { setImmediate as nextTurn } from "node:timers/promises";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { PAGE_KEY_WORDS, type RootKeyOptions, pageKeys, pageKeysSync, rootKey } from "../../lib/index.js";
import { addon, addonPath } from "../../lib/native.js";
import { expectError, expectRejection } from "../expect_error.js";

const words = (digest: Uint8Array): number[] => {
  const view = new DataView(digest.buffer, digest.byteOffset);
  return [0, 4, 8, 12].map((at) => view.getUint32(at, true));
};

/** The definition, page by page. */
function expectedKeys(tokens: Int32Array, pageSize: number, parent: Uint32Array): number[] {
  const keys: number[] = [];
  let before = Buffer.alloc(16);
  for (const [i, word] of parent.entries()) before.writeUInt32LE(word, 4 * i);
  for (let at = 0; at + pageSize <= tokens.length; at += pageSize) {
    const body = Buffer.alloc(4 + 4 * pageSize);
    body.writeUInt32LE(pageSize);
    for (let i = 0; i < pageSize; i++) body.writeInt32LE(tokens[at + i] as number, 4 + 4 * i);
    before = createHash("sha256").update("kvasir page").update(before).update(body).digest().subarray(0, 16);
    keys.push(...words(before));
  }
  return keys;
}

const randomWords = (count: number): Uint32Array<ArrayBuffer> => {
  const bytes = randomBytes(4 * count);
  return new Uint32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
};
/** TypeScript's library for this target does not know resizable buffers yet. */
const resizable = (): Int32Array =>
  Reflect.construct(Int32Array, [Reflect.construct(ArrayBuffer, [128, { maxByteLength: 256 }])]);
const randomTokens = (count: number): Int32Array => new Int32Array(randomWords(count).buffer);

describe("keys of pages", () => {
  test("are those of the definition, for every size", async () => {
    const run = async (length: number, pageSize: number): Promise<void> => {
      const tokens = randomTokens(length);
      const parent = randomWords(PAGE_KEY_WORDS);
      const expected = expectedKeys(tokens, pageSize, parent);
      expect(expected.length).toBe(Math.floor(length / pageSize) * PAGE_KEY_WORDS);
      expect(Array.from(await pageKeys(tokens, pageSize, parent))).toEqual(expected);
      expect(Array.from(pageKeysSync(tokens, pageSize, parent))).toEqual(expected);
    };
    await fc.assert(fc.asyncProperty(fc.integer({ min: 0, max: 4096 }), fc.integer({ min: 1, max: 300 }), run), { numRuns: 150 });
    for (const [length, pageSize] of [
      [0, 16],
      [15, 16],
      [16, 16],
      [17, 16],
      [4096, 4096],
      [4096, 1],
      [100, 65536],
    ] as const)
      await run(length, pageSize);
  });

  test("of long inputs, which are hashed in several steps", async () => {
    for (const pageSize of [7, 64, 65536]) {
      const tokens = randomTokens(300_000);
      const parent = randomWords(PAGE_KEY_WORDS);
      const keys = await pageKeys(tokens, pageSize, parent);
      expect(Array.from(keys)).toEqual(expectedKeys(tokens, pageSize, parent));
    }
  });

  test("continue from the key of any page", async () => {
    const tokens = randomTokens(1000);
    const root = randomWords(PAGE_KEY_WORDS);
    const whole = await pageKeys(tokens, 16, root);
    const tail = pageKeysSync(tokens.subarray(20 * 16), 16, whole.slice(19 * PAGE_KEY_WORDS, 20 * PAGE_KEY_WORDS));
    expect(Array.from(tail)).toEqual(Array.from(whole.subarray(20 * PAGE_KEY_WORDS)));
  });

  test("depend on every token, the page size and the parent", () => {
    const tokens = randomTokens(128);
    const parent = randomWords(PAGE_KEY_WORDS);
    const seen = new Set([pageKeysSync(tokens, 128, parent).join()]);
    for (let i = 0; i < tokens.length; i++) {
      tokens[i] = (tokens[i] as number) ^ (1 << (i % 32));
      seen.add(pageKeysSync(tokens, 128, parent).join());
    }
    for (let word = 0; word < PAGE_KEY_WORDS; word++) {
      const other = parent.slice();
      other[word] = (other[word] as number) ^ 1;
      seen.add(pageKeysSync(tokens, 128, other).join());
    }
    for (const pageSize of [127, 126, 64]) seen.add(pageKeysSync(tokens, pageSize, parent).slice(0, PAGE_KEY_WORDS).join());
    expect(seen.size).toBe(1 + 128 + PAGE_KEY_WORDS + 3);
  });

  test("of a million tokens and more are hashed beside the event loop, from a copy", async () => {
    const tokens = randomTokens(8 * 2 ** 20);
    const parent = randomWords(PAGE_KEY_WORDS);
    const before = pageKeysSync(tokens.subarray(0, 64), 64, parent);
    let isDone = false;
    const pending = pageKeys(tokens, 64, parent).finally(() => {
      isDone = true;
    });
    tokens.fill(0);
    let turns = 0;
    for (; !isDone; turns++) await nextTurn();
    const keys = await pending;
    expect(keys.length).toBe(2 ** 17 * PAGE_KEY_WORDS);
    expect(Array.from(keys.subarray(0, PAGE_KEY_WORDS))).toEqual(Array.from(before));
    expect(turns).toBeGreaterThan(10);
  });

  test("are the same by the portable path", () => {
    const tokens = randomTokens(1024);
    const parent = randomWords(PAGE_KEY_WORDS);
    const script = `const addon = require(${JSON.stringify(addonPath())});
      const keys = addon.pageKeysSync(Int32Array.from(${JSON.stringify([...tokens])}), 24, Uint32Array.from(${JSON.stringify([...parent])}));
      console.log(JSON.stringify([addon.sha256Isa, ...new Uint32Array(keys)]));`;
    const child = spawnSync(process.execPath, ["-e", script], {
      encoding: "utf8",
      env: { ...process.env, KVASIR_ISA: "portable" },
    });
    expect(child.stderr).toBe("");
    const [isa, ...keys] = JSON.parse(child.stdout) as [string, ...number[]];
    expect(isa).toBe("portable");
    expect(keys).toEqual(expectedKeys(tokens, 24, parent));
    expect(["sha_ni", "portable"]).toContain(addon().sha256Isa);
  });

  test("refuse what is no list of tokens", async () => {
    const parent = randomWords(PAGE_KEY_WORDS);
    const wrong = [
      [[1, 2, 3], 16, parent, /tokens is an Array/],
      [new Uint32Array(32), 16, parent, /tokens is an? Uint32Array/],
      [new Int32Array(32), 0, parent, /pageSize is 0/],
      [new Int32Array(32), 1.5, parent, /pageSize is 1.5/],
      [new Int32Array(32), 65537, parent, /pageSize is 65537/],
      [new Int32Array(32), 16, new Uint32Array(3), /parent is .* of 3/],
      [new Int32Array(32), 16, "root", /parent is "root"/],
      [new Int32Array(new SharedArrayBuffer(128)), 16, parent, /tokens is backed by a SharedArrayBuffer/],
      [resizable(), 16, parent, /tokens is .*resizable/],
      [new Int32Array(32), 16, new Uint32Array(new SharedArrayBuffer(16)), /parent is backed by a SharedArrayBuffer/],
    ] as const;
    for (const [tokens, pageSize, from, message] of wrong) {
      const given = [tokens, pageSize, from] as unknown as Parameters<typeof pageKeys>;
      expectError("ERR_KVASIR_INVALID_ARGUMENT", [message], () => pageKeysSync(...given));
      await expectRejection("ERR_KVASIR_INVALID_ARGUMENT", [message], pageKeys(...given));
    }
    const detached = new Int32Array(32);
    structuredClone(detached.buffer, { transfer: [detached.buffer] });
    await expectRejection("ERR_KVASIR_INVALID_ARGUMENT", ["detached"], pageKeys(detached, 16, parent));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", [/4097.*4096/], () => pageKeysSync(new Int32Array(4097), 16, parent));
  });
});

describe("roots", () => {
  const fingerprint = new Uint8Array(randomBytes(16));
  const root = (options: Partial<RootKeyOptions> = {}): string => rootKey({ fingerprint, ...options }).join();

  test("never meet over many salts and extra keys", () => {
    const seen = new Set<string>([root()]);
    for (let i = 0; i < 40_000; i++) {
      seen.add(root({ salt: String(i) }));
      seen.add(root({ extras: { salt: String(i) } }));
      seen.add(root({ extras: { salt: i } }));
    }
    expect(seen.size).toBe(120_001);
  });

  test("cannot be imitated by moving bytes between kinds, names and values", () => {
    const different: Partial<RootKeyOptions>[] = [
      {},
      { salt: "" },
      { salt: "a" },
      { salt: "a\0" },
      { extras: { "": "a" } },
      { extras: { a: "" } },
      { extras: { salt: "a" } },
      { extras: { a: "bc" } },
      { extras: { ab: "c" } },
      { extras: { a: "b", c: "d" } },
      { extras: { a: "bcd" } },
      { extras: { a: "b\0c\0d" } },
      { extras: { a: "1" } },
      { extras: { a: 1 } },
      { extras: { a: "b" }, salt: "c" },
      { extras: { a: "c" }, salt: "b" },
      { extras: { a: "\ud800" } },
      { extras: { a: "\ufffd" } },
      { extras: { lora: "tenant" } },
      { salt: "tenant" },
      { salt: "lora\0tenant" },
      { fingerprint: new Uint8Array(16) },
      { fingerprint: new Uint8Array(17) },
      { fingerprint: Uint8Array.from([...new Uint8Array(16), 2]) },
    ];
    expect(new Set(different.map(root)).size).toBe(different.length);
  });

  test("do not depend on the order in which extra keys are given", () => {
    expect(root({ extras: { b: 2, a: "1", c: -0 } })).toBe(root({ extras: { c: 0, a: "1", b: 2 } }));
  });

  test("refuse what has no one meaning", () => {
    const wrong: [options: unknown, message: RegExp][] = [
      [{ fingerprint: new Uint8Array(15) }, /fingerprint is an? Uint8Array of 15/],
      [{ fingerprint: "abc" }, /fingerprint is "abc"/],
      [{ fingerprint, salt: 7 }, /salt is 7/],
      [{ fingerprint, extras: { a: Number.NaN } }, /extras\.a is NaN/],
      [{ fingerprint, extras: { a: true } }, /extras\.a is true/],
      [{ fingerprint, extras: ["a"] }, /extras is an Array/],
    ];
    for (const [options, message] of wrong)
      expectError("ERR_KVASIR_INVALID_ARGUMENT", [message], () => rootKey(options as RootKeyOptions));
    expectError("ERR_KVASIR_UNKNOWN_OPTION", ["salt"], () => rootKey({ fingerprint, slat: "x" } as unknown as RootKeyOptions));
  });
});
