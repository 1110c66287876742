/** Turns what happens to a pool's sealed pages into KV events, and what it counts into metrics. */
import { type KvEventKind, type KvEvents, type KvTier, keyWords, kvTiers } from "../observe/kv_events.js";
import type { Metrics } from "../observe/metrics.js";
import { type PagePool, type PoolObserver, pageStates, TIER_DISK, TIER_REMOTE } from "./page_pool.js";

const bitOf = (tier: KvTier): number => 1 << kvTiers.indexOf(tier);
const parentAt = keyWords;

export class PoolEvents implements PoolObserver {
  readonly #pool: PagePool;
  readonly #events: KvEvents;
  readonly #group: number;
  readonly #arenaBits: readonly number[];
  /** Key and parent's key of the page at hand. */
  readonly #words: Uint32Array = new Uint32Array(2 * keyWords);

  /** `arenas` names what the pool's arenas are: ["hbm", "ddr"] on a GPU, ["ddr"] on a CPU. The pool's observer from here on. */
  constructor(pool: PagePool, events: KvEvents, group: number, arenas: readonly KvTier[]) {
    this.#pool = pool;
    this.#events = events;
    this.#group = group;
    this.#arenaBits = arenas.map(bitOf);
    pool.observe(this);
  }

  stored(page: number): void {
    this.#add("stored", page, this.#tiers(page));
  }

  removed(page: number): void {
    this.#add("removed", page, 0);
  }

  moved(page: number): void {
    this.#add("moved", page, this.#tiers(page));
  }

  #add(kind: KvEventKind, page: number, tiers: number): void {
    if (this.#events.isRecording) {
      this.#pool.key(page, this.#words, 0);
      this.#pool.parentKey(page, this.#words, parentAt);
    }
    this.#events.add(kind, this.#group, tiers, this.#words, 0, this.#words, parentAt);
  }

  #tiers(page: number): number {
    let tiers = 0;
    for (const [arena, bit] of this.#arenaBits.entries()) if (this.#pool.isValid(page, arena)) tiers |= bit;
    if (this.#pool.hasTier(page, TIER_DISK)) tiers |= bitOf("disk");
    if (this.#pool.hasTier(page, TIER_REMOTE)) tiers |= bitOf("remote");
    return tiers;
  }
}

/** Registers what a pool counts, read when the metrics are read. `arenas` as for PoolEvents. */
export function registerPool(metrics: Metrics, pool: PagePool, group: number, arenas: readonly KvTier[]): void {
  const labels = { group: String(group) };
  for (const state of pageStates) {
    metrics.gauge("kvasir_pages", "Pages by state", { ...labels, state }, () => pool.counts()[state]);
  }
  for (const [arena, tier] of arenas.entries()) {
    const own = { ...labels, arena: arena === 0 ? "device" : "host", tier };
    metrics.gauge("kvasir_slots", "Page slots of a memory tier", own, () => pool.numSlots(arena));
    metrics.gauge("kvasir_slots_used", "Page slots in use", own, () => pool.usedSlots(arena));
    metrics.gauge("kvasir_pages_evictable", "Pages that no running sequence and no transfer holds", own, () =>
      pool.evictable(arena),
    );
  }
  metrics.gauge("kvasir_pool_metadata_bytes", "Bytes of the page bookkeeping, token ids included", labels, () => {
    return pool.metadataBytes + pool.tokenBytes;
  });
  metrics.counter("kvasir_key_collisions_total", "Keys that stood for other tokens", labels, () => pool.collisions);
}
