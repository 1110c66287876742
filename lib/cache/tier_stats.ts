/** What the tiers hold and did, counted. */
import type { MoveCounters } from "./arena_moves.js";
import type { EvictionCounters } from "./evictor.js";
import type { KvCache } from "./kv_cache.js";
import type { TierDriver, TierStats } from "./tier_driver.js";

/** Counts that the tiers keep while they work. */
export interface TierCounts {
  prompts: number;
  promptTokens: number;
  adoptedTokens: number;
  /** Tokens that sequences needed back, by where they were: device pool, host pool, keyed tiers. */
  foundTokens: number[];
  /** Tokens of suspended sequences whose pages were lost, so that they must be read again. */
  lostTokens: number;
}

export interface ArenaStats {
  /** The pool that kernels read, and the host pool under it. */
  name: "device" | "host";
  slots: number;
  usedSlots: number;
  bytes: number;
}

export interface TiersStats {
  prompts: number;
  promptTokens: number;
  /** Prompt tokens that need not be read, since they were found. */
  adoptedTokens: number;
  lostTokens: number;
  /** Tokens that prompts and suspended sequences needed back, by the tier where they were. */
  foundTokens: Record<string, number>;
  /** Copies between the device pool and the host pool. */
  moves: MoveCounters;
  evictions: EvictionCounters;
  arenas: ArenaStats[];
  keyed: Record<string, TierStats>;
}

export function tierStats(
  cache: KvCache,
  counts: TierCounts,
  moves: MoveCounters,
  evictions: EvictionCounters,
  drivers: readonly TierDriver[],
): TiersStats {
  const names = ["device", "host", ...drivers.map(({ name }) => name)];
  const found = Object.fromEntries(names.map((name, i) => [name, counts.foundTokens[i] as number]));
  const arenas = cache.groups.flatMap(({ pool, format }) =>
    Array.from({ length: pool.numArenas }, (_, arena) => ({
      name: arena === 0 ? ("device" as const) : ("host" as const),
      slots: pool.numSlots(arena),
      usedSlots: pool.usedSlots(arena),
      bytes: pool.usedSlots(arena) * format.pageBytes,
    })),
  );
  return {
    prompts: counts.prompts,
    promptTokens: counts.promptTokens,
    adoptedTokens: counts.adoptedTokens,
    lostTokens: counts.lostTokens,
    foundTokens: found,
    moves: { ...moves },
    evictions: { ...evictions },
    arenas,
    keyed: Object.fromEntries(drivers.map((driver) => [driver.name, driver.stats()])),
  };
}
