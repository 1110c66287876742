/** The recount of a pool: what its counters, lists and flags say against what they should say. */
import { classOf, FREE, heldBit, markMask, orderOf, pageStates, stateMask, validBit, ACTIVE, CACHED } from "./page_flags.js";
import { NONE } from "./page_lists.js";
import type { PoolState } from "./pool_state.js";
import type { SlotMap } from "./slot_map.js";

/** Returns what is wrong, one sentence each; `references` and `uses` are what the tables hold. */
export function poolProblems(pool: PoolState, references: Int32Array, uses: Int32Array): string[] {
  const isSealed = (page: number): boolean => ((pool.flags[page] as number) & stateMask) > ACTIVE;
  return [
    ...stateProblems(pool),
    ...referenceProblems(pool, references, uses),
    ...slotProblems(pool),
    ...orderProblems(pool),
    ...pool.index.problems(pool.numPages, isSealed),
  ];
}

function stateProblems(pool: PoolState): string[] {
  const found: string[] = [];
  const counts = new Int32Array(pageStates.length);
  const free = new Uint8Array(pool.numPages);
  for (const page of pool.freePages()) {
    if (free[page]) found.push(`I4: page ${page} is listed as free twice`);
    free[page] = 1;
  }
  for (let page = 0; page < pool.numPages; page++) {
    const flags = pool.flags[page] as number;
    const state = flags & stateMask;
    counts[state] = (counts[state] as number) + 1;
    const name = pageStates[state];
    if ((state === FREE) !== (free[page] === 1))
      found.push(`I1: page ${page} is ${name} but its place in the free list says otherwise`);
    if (state === FREE && flags !== FREE) found.push(`I3: page ${page} is free with flags ${flags.toString(2)}`);
    const isHeld = (flags & markMask) !== 0 || pool.index.childrenOf(page) !== 0;
    if (pool.isGone(page) && !isHeld) found.push(`I1: page ${page} is dropped and nothing holds it, but it is not free`);
    if ((state === CACHED) !== (pool.refs[page] === 0 && state > ACTIVE))
      found.push(`I1: page ${page} is ${name} with ${pool.refs[page]} references`);
  }
  counts.forEach((count, state) => {
    if (count !== pool.counts[state])
      found.push(`I1: ${pool.counts[state]} pages counted as ${pageStates[state]}, a recount gives ${count}`);
  });
  return found;
}

function referenceProblems(pool: PoolState, references: Int32Array, uses: Int32Array): string[] {
  const found: string[] = [];
  for (let page = 0; page < pool.numPages; page++) {
    if (pool.refs[page] !== references[page])
      found.push(`I2: page ${page} counts ${pool.refs[page]} references, tables hold ${references[page]}`);
    if (pool.uses[page] !== uses[page])
      found.push(`I2: page ${page} counts ${pool.uses[page]} uses, running tables hold ${uses[page]}`);
  }
  return found;
}

function slotProblems(pool: PoolState): string[] {
  const found: string[] = [];
  pool.slots.forEach((slots, arena) => {
    const map = pool.maps[arena] as SlotMap;
    const owners = new Int32Array(map.size);
    for (let page = 0; page < pool.numPages; page++) {
      const slot = slots[page] as number;
      const flags = pool.flags[page] as number;
      if (slot === NONE) {
        if ((flags & validBit(arena)) !== 0) found.push(`I4: page ${page} is valid in arena ${arena} without a slot there`);
        continue;
      }
      owners[slot] = (owners[slot] as number) + 1;
      if ((flags & stateMask) === FREE) found.push(`I1: page ${page} is free with slot ${slot} of arena ${arena}`);
    }
    let free = 0;
    owners.forEach((count, slot) => {
      const all = count + (map.isFree(slot) ? 1 : 0);
      if (all !== 1) found.push(`I4: slot ${slot} of arena ${arena} has ${all} owners, expected 1`);
      if (map.isFree(slot)) free++;
    });
    if (free !== map.numFree) found.push(`I1: ${map.numFree} free slots counted in arena ${arena}, a recount gives ${free}`);
  });
  return found;
}

function orderProblems(pool: PoolState): string[] {
  const found: string[] = [];
  const listed = new Int32Array(pool.numPages).fill(NONE);
  pool.orders.forEach((order, arena) => {
    const counts = new Int32Array(4);
    const list = (page: number, isHeld: boolean): void => {
      if (listed[page] !== NONE) found.push(`I4: page ${page} is listed twice for eviction`);
      listed[page] = arena;
      const flags = pool.flags[page] as number;
      const pageClass = classOf(flags);
      counts[pageClass] = (counts[pageClass] as number) + 1;
      if (isHeld !== ((flags & heldBit) !== 0))
        found.push(`I4: page ${page} is${isHeld ? "" : " not"} set aside, its flags differ`);
    };
    for (const page of order.heldPages()) list(page, true);
    for (const page of order.policy.pages()) list(page, false);
    counts.forEach((count, pageClass) => {
      if (count !== order.count(pageClass))
        found.push(
          `I1: ${order.count(pageClass)} pages of class ${pageClass} counted in arena ${arena}, a recount gives ${count}`,
        );
    });
  });
  for (let page = 0; page < pool.numPages; page++) {
    const flags = pool.flags[page] as number;
    const order = pool.orderFor(page);
    if (listed[page] !== order || orderOf(flags) !== order)
      found.push(`I3: page ${page} is in the order of arena ${listed[page]}, expected ${order}`);
    if (classOf(flags) !== (order < 0 ? 0 : pool.classFor(page, order)))
      found.push(`I3: page ${page} has eviction class ${classOf(flags)}, expected ${pool.classFor(page, order)}`);
    if (order < 0 && (flags & heldBit) !== 0) found.push(`I4: page ${page} is set aside, but is in no order`);
    if (pool.duplicates !== undefined && pool.duplicates.has(page) !== pool.isDuplicate(page))
      found.push(`I4: page ${page} is${pool.isDuplicate(page) ? " not" : ""} noted as a duplicate`);
  }
  return found;
}
