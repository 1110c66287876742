/** Events of a cache's sealed pages: what the pools tell, with the tiers that hold each page. */
import { KvEvents, type KvEventKind, type KvEventsOptions, kvTiers } from "../observe/kv_events.js";
import type { PagePool } from "./page_pool.js";
import { KEY_WORDS, type TierDriver } from "./tier_driver.js";
import { tierBit } from "./keyed_moves.js";

/** Follows the pools of a cache, one a layer group. `isOnGpu` says what the first arena is: HBM, or host memory. */
export function followPools(
  pools: readonly PagePool[],
  drivers: readonly TierDriver[],
  isOnGpu: boolean,
  options?: KvEventsOptions,
): KvEvents {
  const events = new KvEvents(options);
  const key = new Uint32Array(KEY_WORDS);
  const parent = new Uint32Array(KEY_WORDS);
  const bits = drivers.map(({ name }) => 1 << kvTiers.indexOf(name));
  const arenaBits = isOnGpu ? [1 << kvTiers.indexOf("hbm"), 1 << kvTiers.indexOf("ddr")] : [2, 2];
  pools.forEach((pool, group) => {
    const tiersOf = (page: number): number => {
      let tiers = 0;
      for (let arena = 0; arena < pool.numArenas; arena++) if (pool.isValid(page, arena)) tiers |= arenaBits[arena] as number;
      bits.forEach((bit, driver) => {
        if (pool.hasTier(page, tierBit(driver))) tiers |= bit;
      });
      return tiers;
    };
    const add = (kind: KvEventKind, page: number, tiers: number): void => {
      if (events.isRecording) {
        pool.key(page, key, 0);
        pool.parentKey(page, parent, 0);
      }
      events.add(kind, group, tiers, key, 0, parent, 0);
    };
    pool.observe({
      stored: (page) => add("stored", page, tiersOf(page)),
      removed: (page) => add("removed", page, 0),
      moved: (page) => add("moved", page, tiersOf(page)),
    });
  });
  return events;
}
