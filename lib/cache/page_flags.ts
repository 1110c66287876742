/**
 * The sixteen bits that a page's condition takes:
 *
 *   0-1 state   2-6 transfer marks   7-8 valid in arena 0, 1   9-10 on keyed tiers   11-12 eviction order + 1   13-14 class   15 set aside
 */

/** FREE -> ACTIVE (referenced) -> SEALED (full and in the index) -> CACHED (sealed, unreferenced). */
export const pageStates = ["free", "active", "sealed", "cached"] as const;
export type PageState = (typeof pageStates)[number];
export const FREE = 0;
/** Referenced; or, with no reference, dropped and waiting for its last transfer or its last child to end. */
export const ACTIVE = 1;
export const SEALED = 2;
export const CACHED = 3;

/** Transfer marks. A marked page is neither free nor evictable. Device -> host. */
export const MARK_OUT = 1;
/** Host -> device. */
export const MARK_IN = 2;
/** Lowest arena -> keyed tier of this host. */
export const MARK_STORE = 4;
/** Keyed tier -> lowest arena. */
export const MARK_LOAD = 8;
/** Picked for eviction: nobody else picks it. */
export const MARK_EVICT = 16;

/** Keyed tiers that seem to hold the page. */
export const TIER_DISK = 1;
export const TIER_REMOTE = 2;

export const stateMask = 3;
export const markShift = 2;
export const markMask: number = 31 << markShift;
export const validShift = 7;
export const validMask: number = 3 << validShift;
export const tierShift = 9;
export const tierMask: number = 3 << tierShift;
export const orderShift = 11;
export const orderMask: number = 3 << orderShift;
export const classShift = 13;
export const classMask: number = 3 << classShift;
export const heldBit: number = 1 << 15;

export const validBit = (arena: number): number => 1 << (validShift + arena);
/** Arena of the order that the page is in, or -1. */
export const orderOf = (flags: number): number => ((flags & orderMask) >>> orderShift) - 1;
export const classOf = (flags: number): number => (flags & classMask) >>> classShift;
