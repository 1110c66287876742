/** A session's tokens: whatever happened to its pages, what is read again is read in pieces that give the same. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Context } from "../../lib/session/context.js";

const steady = 5;

type Event = { read: number } | { made: number };
const event: fc.Arbitrary<Event> = fc.oneof(
  fc.record({ read: fc.integer({ min: 1, max: 20 }) }),
  fc.record({ made: fc.integer({ min: 1, max: 6 }) }),
);

/** A piece as a device sees it: one of at least `steady` tokens gives the same however it is cut; of a shorter one its end shows. */
const looks = (from: number, count: number): string[] =>
  Array.from({ length: count }, (_, i) => `${from + i}:${count < steady ? from + count : "any"}`);

/** A context after the events, and how each of its settled tokens was computed, by the rule: asked texts whole, answers one by one. */
function play(events: readonly Event[]): { context: Context; computed: string[] } {
  const context = new Context(steady);
  const computed: string[] = [];
  let next = 1;
  for (const one of events) {
    if ("read" in one) {
      const from = context.settled;
      context.append(Array.from({ length: one.read }, () => next++));
      computed.push(...looks(from, context.settled - from));
    } else {
      for (let i = 0; i < one.made; i++) {
        const from = context.settled;
        context.push(next++);
        if (context.settled > from) computed.push(...looks(from, 1));
      }
    }
  }
  return { context, computed };
}

describe("a context", () => {
  test("holds its tokens, and leaves at most the last one to be read", () => {
    fc.assert(
      fc.property(fc.array(event, { maxLength: 12 }), (events) => {
        const { context, computed } = play(events);
        expect([...context.slice(0, context.length)]).toEqual(Array.from({ length: context.length }, (_, i) => i + 1));
        expect(computed.length).toBe(context.settled);
        expect(context.length - context.settled).toBe(events.length > 0 && "made" in (events.at(-1) as Event) ? 1 : 0);
      }),
    );
  });

  test("is read again from any place, with any budgets, in pieces that give the same", () => {
    const budgets = fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 8 });
    fc.assert(
      fc.property(fc.array(event, { minLength: 1, maxLength: 12 }), fc.nat(), budgets, (events, place, list) => {
        const { context, computed } = play(events);
        const lost = place % (context.settled + 1);
        const again = computed.slice(0, context.restart(lost));
        expect(again.length).toBeLessThanOrEqual(lost);
        for (let turn = 0; again.length < context.settled; turn++) {
          // A budget of twice the steady piece always gets on; a smaller one may have to wait.
          const budget = turn % 2 === 0 ? (list[(turn / 2) % list.length] as number) : 2 * steady;
          const count = context.nextPiece(again.length, budget);
          expect(count).toBeLessThanOrEqual(budget);
          if (budget >= 2 * steady) expect(count).toBeGreaterThan(0);
          again.push(...looks(again.length, count));
        }
        expect(again).toEqual(computed);
      }),
    );
  });

  test("goes back to a mark as if the rest had never been, and so does its fork", () => {
    const some = fc.array(event, { maxLength: 8 });
    fc.assert(
      fc.property(some, some, some, (before, between, after) => {
        const { context } = play(before);
        const { mark } = context;
        const told = (from: Context, events: readonly Event[]): Context => {
          let next = from.length + 1;
          for (const one of events) {
            if ("read" in one) from.append(Array.from({ length: one.read }, () => next++));
            else for (let i = 0; i < one.made; i++) from.push(next++);
          }
          return from;
        };
        const fork = told(context.fork(), after);
        told(context, between);
        context.truncate(mark);
        told(context, after);
        const seen = (of: Context): unknown => [of.mark, of.slice(0, of.length), of.trace(0, of.length), of.trace(3, 11)];
        expect(seen(context)).toEqual(seen(play([...before, ...after]).context));
        expect(seen(fork)).toEqual(seen(context));
      }),
    );
  });

  test("traces what shows in the bits: equal traces, equal ways", () => {
    fc.assert(
      fc.property(
        fc.array(event, { maxLength: 6 }),
        fc.array(event, { maxLength: 6 }),
        fc.nat(20),
        fc.nat(20),
        (a, b, from, size) => {
          const [one, two] = [play(a), play(b)];
          const to = from + 1 + size;
          if (Math.min(one.context.settled, two.context.settled) < to) return;
          const isSame = one.computed.slice(from, to).join() === two.computed.slice(from, to).join();
          if (one.context.trace(from, to) === two.context.trace(from, to)) expect(isSame).toBe(true);
        },
      ),
    );
  });

  test("has no ways where every cut gives the same", () => {
    const context = new Context(1);
    context.append([1, 2, 3]);
    context.push(4);
    context.push(5);
    expect([context.trace(0, 5), context.restart(2), context.nextPiece(0, 100), context.settled]).toEqual(["", 2, 4, 4]);
  });
});
