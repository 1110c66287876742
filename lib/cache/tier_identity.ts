/**
 * What the bytes of a stored page mean: a page may be taken from a tier only by a cache of the same identity. Every tier keeps the
 * fingerprint with each page, and the parts where a person may have to read them.
 */
import { createHash } from "node:crypto";
import { KvasirError } from "../errors.js";
import { describe } from "../options.js";

/** Of the format that tiers write; raised when a change makes old pages unreadable. */
export const TIER_VERSION = 1;

export interface TierGroup {
  /** Model layers, in the order in which a page stores them. */
  layers: readonly number[];
  numKvHeads: number;
  headDim: number;
  /** Tokens that a query may see, itself included; absent: all. */
  window?: number | undefined;
  /** Name of the page format, "identity" or a codec's. */
  format: string;
  pageBytes: number;
  /** Whether keys are stored after RoPE. */
  storeRotated: boolean;
}

export interface TierIdentity {
  version: number;
  /** What tells the weights apart: a checkpoint's digest, or its name. */
  model: string;
  dtype: string;
  /** Tokens of a page. */
  pageSize: number;
  groups: readonly TierGroup[];
}

type Value = string | number | boolean | undefined;

/** Names and values of all parts, in a fixed order: "groups[1].headDim" -> 64. */
function parts(identity: TierIdentity): [name: string, value: Value][] {
  const { version, model, dtype, pageSize, groups } = identity;
  const found: [string, Value][] = Object.entries({ version, model, dtype, pageSize, "groups.length": groups.length });
  for (const [index, { layers, numKvHeads, headDim, window, format, pageBytes, storeRotated }] of groups.entries()) {
    const fields = { layers: layers.join(","), numKvHeads, headDim, window, format, pageBytes, storeRotated };
    for (const [name, value] of Object.entries(fields)) found.push([`groups[${index}].${name}`, value]);
  }
  return found;
}

/** 16 bytes that differ between identities that differ: SHA-256 over every part's name, type and value, each with its length. */
export function fingerprint(identity: TierIdentity): Uint8Array {
  const hash = createHash("sha256");
  for (const [name, value] of [["kvasir.tier", "identity"], ...parts(identity)] as [string, Value][]) {
    for (const text of [name, typeof value, String(value)]) {
      const bytes = Buffer.from(text, "utf8");
      const length = Buffer.alloc(4);
      length.writeUInt32LE(bytes.length);
      hash.update(length).update(bytes);
    }
  }
  return new Uint8Array(hash.digest().subarray(0, 16));
}

/** One sentence part for each part in which `found` is not `expected`: `groups[0].headDim is 64, expected 128`. */
export function differences(found: TierIdentity, expected: TierIdentity): string[] {
  const there = new Map(parts(found));
  const here = new Map(parts(expected));
  const names = [...new Set([...here.keys(), ...there.keys()])];
  return names
    .filter((name) => there.get(name) !== here.get(name))
    .map((name) => `${name} is ${valueText(there.get(name))}, expected ${valueText(here.get(name))}`);
}

const valueText = (value: Value): string => (value === undefined ? "none" : JSON.stringify(value));

/** The identity as a file's header keeps it. */
export const identityText = (identity: TierIdentity): string => JSON.stringify(identity);

/** The other way round; undefined where the text is none of ours. */
export function parseIdentity(text: string): TierIdentity | undefined {
  try {
    const identity = JSON.parse(text) as TierIdentity;
    parts(identity);
    return identity;
  } catch {
    return undefined; // the caller says what could not be read
  }
}

/** @throws ERR_KVASIR_INVALID_ARGUMENT for an identity that no tier can serve. */
export function checkIdentity(identity: TierIdentity): void {
  const wrong = (name: string, value: unknown, expected: string): never => {
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `identity.${name} is ${describe(value)}, expected ${expected}`);
  };
  const { version, model, dtype, pageSize, groups } = identity;
  if (version !== TIER_VERSION) wrong("version", version, `${TIER_VERSION}, the format that this release writes`);
  if (typeof model !== "string" || model === "") wrong("model", model, "a name or digest of the weights");
  if (typeof dtype !== "string") wrong("dtype", dtype, "the name of a dtype");
  if (!Number.isInteger(pageSize) || pageSize < 1 || pageSize > 256) wrong("pageSize", pageSize, "an integer from 1 to 256");
  if (!Array.isArray(groups) || groups.length === 0) wrong("groups", groups, "at least one layer group");
  for (const [index, { pageBytes }] of groups.entries()) {
    if (!Number.isSafeInteger(pageBytes) || pageBytes < 1 || pageBytes > 2 ** 30)
      wrong(`groups[${index}].pageBytes`, pageBytes, "an integer from 1 to 2^30");
  }
}
