/** Who goes on, who waits, who gives way: laws of the decisions alone. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { agedPriority, byRank, planAdmission, planGrowth, type Running, type Waiting } from "../../lib/session/queue.js";

const candidate = {
  priority: fc.integer({ min: -12, max: 12 }),
  arrivedAt: fc.integer({ min: 0, max: 1000 }),
};
const running = fc.record({
  ...candidate,
  ticket: fc.constant(0),
  need: fc.integer({ min: 0, max: 2 }),
  held: fc.integer({ min: 0, max: 6 }),
  growth: fc.integer({ min: 0, max: 2 }),
  isGuarded: fc.boolean(),
  canYield: fc.boolean(),
});
const waiting = fc.record({
  ...candidate,
  ticket: fc.constant(0),
  need: fc.integer({ min: 0, max: 8 }),
  held: fc.integer({ min: 0, max: 2 }),
  growth: fc.integer({ min: 0, max: 2 }),
  isReady: fc.boolean(),
  bypassed: fc.integer({ min: 0, max: 4 }),
});
const pages = fc.record({ free: fc.integer({ min: 0, max: 6 }), coming: fc.integer({ min: 0, max: 4 }) });
const now = 1000;
const agingMs = 100;

/** In the order of rank; tickets follow arrival. */
function ranked<C extends { ticket: number; priority: number; arrivedAt: number }>(list: readonly C[]): C[] {
  const byArrival = [...list].sort((a, b) => a.arrivedAt - b.arrivedAt).map((entry, ticket) => ({ ...entry, ticket }));
  return byArrival.sort(byRank(now, agingMs));
}

fc.configureGlobal({ numRuns: 1000 });

const sum = (list: readonly { held: number }[]): number => list.reduce((total, { held }) => total + held, 0);

describe("rank", () => {
  test("is a total order: the more important first, then the earlier", () => {
    fc.assert(
      fc.property(fc.array(running, { maxLength: 12 }), (list) => {
        const order = ranked(list);
        order.forEach((entry, i) => {
          const next = order[i + 1];
          if (next === undefined) return;
          const [a, b] = [agedPriority(entry, now, agingMs), agedPriority(next, now, agingMs)];
          expect(a > b || (a === b && entry.ticket < next.ticket)).toBe(true);
        });
      }),
    );
  });

  test("lets age overcome any priority, in time proportional to the difference", () => {
    const old = { ticket: 0, priority: -3, arrivedAt: 0 };
    const fresh = (at: number) => ({ ticket: 1, priority: 3, arrivedAt: at });
    expect(byRank(590, 100)(old, fresh(590))).toBeGreaterThan(0);
    expect(byRank(600, 100)(old, fresh(600))).toBeLessThan(0);
  });
});

describe("growth", () => {
  const arbitrary = fc.record({
    list: fc.array(running, { minLength: 1, maxLength: 8 }),
    pages,
    reclaimable: fc.integer({ min: 0, max: 4 }),
  });

  test("takes from nobody while pages suffice", () => {
    fc.assert(
      fc.property(arbitrary, ({ list, pages: given, reclaimable }) => {
        const order = ranked(list);
        const needed = order.reduce((total, { need }) => total + need, 0);
        const { victims, lacking } = planGrowth(order, { ...given, reclaimable }, 0);
        if (needed <= given.free + given.coming + reclaimable) expect(victims).toEqual([]);
        if (needed <= given.free) expect(lacking).toBe(0);
      }),
    );
  });

  test("never takes from the oldest, nor from one whose pages are on their way in", () => {
    fc.assert(
      fc.property(arbitrary, ({ list, pages: given, reclaimable }) => {
        const { victims } = planGrowth(ranked(list), { ...given, reclaimable }, 0);
        for (const victim of victims) {
          expect(victim.ticket).not.toBe(0);
          expect(victim.canYield).toBe(true);
        }
        expect(new Set(victims).size).toBe(victims.length);
      }),
    );
  });

  test("finds the oldest its page wherever the others hold enough", () => {
    fc.assert(
      fc.property(arbitrary, ({ list, pages: given, reclaimable }) => {
        const order = ranked(list);
        const oldest = order.find(({ ticket }) => ticket === 0) as Running;
        const yielding = order.filter(({ ticket, canYield }) => ticket !== 0 && canYield);
        const { victims, lacking } = planGrowth(order, { ...given, reclaimable }, 0);
        const supply = given.free + given.coming + reclaimable;
        if (oldest.need > 0 && oldest.need <= supply + sum(yielding))
          expect(oldest.need).toBeLessThanOrEqual(supply + sum(victims));
        expect(lacking).toBeLessThanOrEqual(reclaimable + sum(victims));
      }),
    );
  });

  test("takes from a guarded one only for the first of all, and only when no other is left", () => {
    fc.assert(
      fc.property(arbitrary, ({ list, pages: given, reclaimable }) => {
        const order = ranked(list);
        const { victims } = planGrowth(order, { ...given, reclaimable }, 0);
        const guarded = victims.filter(({ isGuarded }) => isGuarded);
        if (guarded.length === 0) return;
        const first = order.find(({ ticket }) => ticket === 0) as Running;
        expect(first.need).toBeGreaterThan(0);
        const free = order.filter((r) => !r.isGuarded && r.canYield && r.ticket !== 0 && r.held > 0);
        for (const other of free) expect(victims).toContain(other);
      }),
    );
  });

  test("takes from the last in rank first", () => {
    const entry = (ticket: number, need: number): Running => ({
      ticket,
      priority: 0,
      arrivedAt: ticket,
      need,
      held: 3,
      growth: 1,
      isGuarded: false,
      canYield: true,
    });
    const order = [entry(0, 1), entry(1, 1), entry(2, 1), entry(3, 1)];
    expect(planGrowth(order, { free: 0, coming: 0, reclaimable: 0 }, 0).victims.map(({ ticket }) => ticket)).toEqual([3]);
    expect(planGrowth(order, { free: 2, coming: 0, reclaimable: 1 }, 0)).toEqual({ lacking: 1, victims: [] }); // the last one waits
  });
});

describe("admission", () => {
  const limits = { slots: 3, headroom: 1, maxBypass: 2, now, agingMs };
  const arbitrary = fc.record({
    queue: fc.array(waiting, { maxLength: 6 }),
    list: fc.array(running, { maxLength: 4 }),
    pages,
    reclaimable: fc.record({ resting: fc.integer({ min: 0, max: 4 }), waiting: fc.integer({ min: 0, max: 4 }) }),
  });
  const plan = ({
    queue,
    list,
    pages: given,
    reclaimable,
  }: {
    queue: Waiting[];
    list: Running[];
    pages: { free: number; coming: number };
    reclaimable: { resting: number; waiting: number };
  }) => {
    const order = ranked(queue);
    return { order, ...planAdmission(order, ranked(list), given, () => reclaimable, limits) };
  };

  const supply = ({ pages: { coming }, reclaimable: { resting, waiting: behind } }: Parameters<typeof plan>[0]): number =>
    coming + resting + behind;

  test("lets in no more than pages and slots allow, with room for everyone's growth unless it is alone", () => {
    fc.assert(
      fc.property(arbitrary, (given) => {
        const { admit } = plan(given);
        expect(admit.length).toBeLessThanOrEqual(limits.slots);
        const needed = admit.reduce((total, { need }) => total + need, 0);
        expect(needed).toBeLessThanOrEqual(given.pages.free);
        if (admit.length > 0 && given.list.length + admit.length > 1) {
          const growth = [...given.list, ...admit].reduce((total, entry) => total + entry.growth, 0);
          expect(needed + growth + limits.headroom).toBeLessThanOrEqual(given.pages.free);
        }
      }),
    );
  });

  test("lets only ready ones in, and nobody before one that was passed by too often", () => {
    fc.assert(
      fc.property(arbitrary, (given) => {
        const { order, admit, bypassed } = plan(given);
        for (const request of admit) expect(request.isReady).toBe(true);
        const blocked = order.find((request) => !admit.includes(request));
        if (blocked === undefined) return;
        const passed = admit.some((request) => order.indexOf(request) > order.indexOf(blocked));
        if (passed) {
          expect(blocked.bypassed).toBeLessThan(limits.maxBypass);
          expect(bypassed).toEqual([blocked]);
        } else expect(bypassed).toEqual([]);
      }),
    );
  });

  test("gets the first one in whenever it is alone and its pages are there or can be reclaimed", () => {
    fc.assert(
      fc.property(arbitrary, (given) => {
        const { order, admit, next, lacking } = plan({ ...given, list: [] });
        const first = order[0];
        if (first?.isReady !== true || first.need > given.pages.free + supply(given)) return;
        if (first.need <= given.pages.free) expect(admit[0]).toBe(first);
        else if (admit.length === 0) {
          expect(next).toBe(first);
          expect(lacking + given.pages.free + given.pages.coming).toBeGreaterThanOrEqual(first.need);
        }
      }),
    );
  });

  test("makes less important ones give way, never equal, guarded or oldest ones, and only if that suffices", () => {
    fc.assert(
      fc.property(arbitrary, (given) => {
        const { victims, next } = plan(given);
        if (victims.length === 0) return;
        const oldest = Math.min(...ranked(given.list).map(({ ticket }) => ticket));
        for (const victim of victims) {
          expect(agedPriority(victim, now, agingMs)).toBeLessThan((next as Waiting).priority);
          expect(victim.isGuarded || !victim.canYield || victim.ticket === oldest).toBe(false);
        }
      }),
    );
  });
});
