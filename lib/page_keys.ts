/**
 * Names of pages: 128-bit keys that two caches agree on exactly when a page's bytes mean the same to both. The root key stands for
 * model, layout and tenant; each page's key continues its parent's over the page's token ids.
 *
 *   root  = SHA-256 over tagged, length-prefixed items: the fingerprint, the salt, each extra key by name
 *   key_i = SHA-256("kvasir page" || key_{i-1} || page size || tokens), both cut to 128 bits
 */
import { createHash } from "node:crypto";
import { KvasirError, fromNative, settle } from "./errors.js";
import { addon } from "./native.js";
import { checkInteger, checkOptions, describe } from "./options.js";

/** Words of a key, the least significant first. */
export const PAGE_KEY_WORDS = 4;

export interface RootKeyOptions {
  /** 16 to 64 bytes that tell model, layout and page format apart. */
  fingerprint: Uint8Array;
  /** A tenant's secret: pages of different salts are never shared, and neither are those with and without one. */
  salt?: string | undefined;
  /** What else changes a page's bytes under the same tokens: an adapter's name, an image's digest, a RoPE base. */
  extras?: Record<string, string | number> | undefined;
}

/** Kinds of the root's items, each with a tag of its own, so that no extra key can pass for a salt or a fingerprint. */
const FINGERPRINT = 1;
const SALT = 2;
const EXTRA_TEXT = 3;
const EXTRA_NUMBER = 4;

/** Tag, length of the name, name, length of the value, value. */
function item(tag: number, name: Uint8Array, value: Uint8Array): Buffer {
  const head = Buffer.alloc(9);
  head.writeUInt8(tag);
  head.writeUInt32LE(name.length, 1);
  head.writeUInt32LE(value.length, 5);
  return Buffer.concat([head, name, value]);
}

/** UTF-16, in which every JavaScript string, unpaired surrogates too, is a string of its own. */
const text = (value: string): Buffer => Buffer.from(value, "utf16le");
const none = new Uint8Array(0);

function extraItem(name: string, value: unknown): Buffer {
  if (typeof value === "string") return item(EXTRA_TEXT, text(name), text(value));
  if (typeof value !== "number" || !Number.isFinite(value)) {
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      `extras.${name} is ${describe(value)}, expected a string or a finite number`,
    );
  }
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value + 0); // -0 is 0
  return item(EXTRA_NUMBER, text(name), bytes);
}

/**
 * The key above the first page of every sequence of one model, layout and tenant.
 *
 * @throws ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNKNOWN_OPTION
 * @example
 * ```ts
 * import { randomBytes } from "node:crypto";
 * import { pageKeys, rootKey } from "kvasir";
 *
 * const root = rootKey({ fingerprint: randomBytes(16), salt: "tenant 7", extras: { adapter: "summaries" } });
 * const keys = await pageKeys(Int32Array.from({ length: 200 }, (_, i) => i), 64, root);
 * console.log(keys.length / 4); // 3 full pages
 * ```
 */
export function rootKey(options: RootKeyOptions): Uint32Array {
  checkOptions("rootKey", options, ["fingerprint", "salt", "extras"]);
  const { fingerprint, salt, extras = {} } = options;
  if (!(fingerprint instanceof Uint8Array) || fingerprint.length < 16 || fingerprint.length > 64) {
    const length = fingerprint instanceof Uint8Array ? ` of ${fingerprint.length}` : "";
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      `fingerprint is ${describe(fingerprint)}${length}, expected a Uint8Array of 16 to 64 bytes`,
    );
  }
  if (salt !== undefined && typeof salt !== "string")
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `salt is ${describe(salt)}, expected a string`);
  if (typeof extras !== "object" || extras === null || Array.isArray(extras)) {
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      `extras is ${describe(extras)}, expected an object of strings and numbers`,
    );
  }
  const hash = createHash("sha256")
    .update("kvasir root\0")
    .update(item(FINGERPRINT, none, fingerprint));
  if (salt !== undefined) hash.update(item(SALT, none, text(salt)));
  for (const name of Object.keys(extras).sort()) hash.update(extraItem(name, extras[name]));
  const digest = hash.digest();
  return Uint32Array.from({ length: PAGE_KEY_WORDS }, (_, word) => digest.readUInt32LE(4 * word));
}

function checkArguments(tokens: Int32Array, pageSize: number, parent: Uint32Array): void {
  if (!(tokens instanceof Int32Array))
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `tokens is ${describe(tokens)}, expected an Int32Array`);
  checkInteger("pageSize", pageSize, 1, 65536);
  if (!(parent instanceof Uint32Array) || parent.length !== PAGE_KEY_WORDS) {
    const length = parent instanceof Uint32Array ? ` of ${parent.length}` : "";
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      `parent is ${describe(parent)}${length}, expected a Uint32Array of 4 words: the key of the page before, or a root key`,
    );
  }
}

/**
 * Keys of the full pages of `tokens`, PAGE_KEY_WORDS words each, hashed on a native thread; a last page that is not full has none. The
 * tokens are copied before the call returns.
 * @param parent the key of the page before the first, or a root key
 * @throws ERR_KVASIR_INVALID_ARGUMENT (rejection), also for arrays that are shared, detached or resizable
 */
export async function pageKeys(tokens: Int32Array, pageSize: number, parent: Uint32Array): Promise<Uint32Array> {
  const { keys, done } = hashPages(tokens, pageSize, parent);
  await done;
  return keys;
}

/** `pageKeys` while it runs: `known` says how many of the first keys are there. @internal */
export function hashPages(
  tokens: Int32Array,
  pageSize: number,
  parent: Uint32Array,
): { keys: Uint32Array; known: () => number; done: Promise<unknown> } {
  checkArguments(tokens, pageSize, parent);
  const words = Math.floor(tokens.length / pageSize) * PAGE_KEY_WORDS;
  const all = new Uint32Array(words + 1); // the last word is the number
  const done = settle(() => addon().pageKeys(tokens, pageSize, parent, all));
  return { keys: all.subarray(0, words), known: () => Atomics.load(all, words), done };
}

/** The same at once, for at most 4096 tokens: a decode step that fills a page. @throws ERR_KVASIR_INVALID_ARGUMENT */
export function pageKeysSync(tokens: Int32Array, pageSize: number, parent: Uint32Array): Uint32Array {
  checkArguments(tokens, pageSize, parent);
  try {
    return new Uint32Array(addon().pageKeysSync(tokens, pageSize, parent));
  } catch (error) {
    throw fromNative(error);
  }
}
