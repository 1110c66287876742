/** A session's tokens: what was said to it, in order, and how far its pages go. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Context } from "../../lib/session/context.js";

type Event = { read: number } | { made: number };
const event: fc.Arbitrary<Event> = fc.oneof(
  fc.record({ read: fc.integer({ min: 1, max: 60 }) }),
  fc.record({ made: fc.integer({ min: 1, max: 6 }) }),
);

/** Tells the context more; its tokens are counted from 1. Returns how many belong into pages: all but a chosen one at the end. */
function tell(context: Context, events: readonly Event[]): number {
  let settled = context.settled;
  for (const one of events) {
    const next = context.length + 1;
    if ("read" in one) context.append(Array.from({ length: one.read }, (_, i) => next + i));
    else for (let i = 0; i < one.made; i++) context.push(next + i);
    settled = "read" in one ? context.length : context.length - 1;
  }
  return settled;
}

const seen = (context: Context): unknown => [context.mark, [...context.slice(0, context.length)]];

describe("a context", () => {
  test("holds its tokens, and leaves at most the last one to be read", () => {
    fc.assert(
      fc.property(fc.array(event, { maxLength: 12 }), (events) => {
        const context = new Context();
        expect(tell(context, events)).toBe(context.settled);
        const tokens = Array.from({ length: context.length }, (_, i) => i + 1);
        expect([...context.slice(0, context.length)]).toEqual(tokens);
        expect(tokens.map((_, i) => context.at(i))).toEqual(tokens);
      }),
    );
  });

  test("goes back to a mark as if the rest had never been, and so does its fork", () => {
    const some = fc.array(event, { maxLength: 8 });
    fc.assert(
      fc.property(some, some, some, (before, between, after) => {
        const context = new Context();
        tell(context, before);
        const { mark } = context;
        const fork = context.fork();
        tell(fork, after);
        tell(context, between);
        context.truncate(mark);
        tell(context, after);
        const straight = new Context();
        tell(straight, [...before, ...after]);
        expect(seen(context)).toEqual(seen(straight));
        expect(seen(fork)).toEqual(seen(straight));
      }),
    );
  });
});
