/** Ways to keep a cache, by name: what `demo` and `eval` compare. A new way is a new entry. */
import { KvasirError, type ModelOptions } from "../index.js";

export interface CacheMode {
  name: string;
  summary: string;
  options: ModelOptions;
  /** Where every sequence goes, and comes back from, between turns; absent where they stay. */
  swapsTo?: "ddr" | "disk";
}

export const cacheModes: readonly CacheMode[] = [
  { name: "identity", summary: "keys and values as they are", options: {} },
  { name: "identity-pre-rope", summary: "keys as they are, before RoPE; rotated when read", options: { storeRotated: false } },
  { name: "swap-ddr", summary: "between turns all pages leave the device for a host pool", options: {}, swapsTo: "ddr" },
  { name: "swap-disk", summary: "between turns all pages leave memory for a slab file", options: {}, swapsTo: "disk" },
];

/** The modes for a command's help, a line each. */
export const modesHelp: string = cacheModes
  .map(({ name, summary }) => `                     ${name.padEnd(18)} ${summary}\n`)
  .join("");

/** The modes of `--mode`, a list by commas, or "all". @throws ERR_KVASIR_INVALID_ARGUMENT */
export function selectModes(value: string): CacheMode[] {
  if (value === "all") return [...cacheModes];
  return value.split(",").map((name) => {
    const mode = cacheModes.find((candidate) => candidate.name === name);
    if (mode === undefined) {
      const known = cacheModes.map((candidate) => candidate.name).join(", ");
      throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `--mode names ${name}, expected all or some of ${known}`);
    }
    return mode;
  });
}
