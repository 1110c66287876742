/** Laws of the byte window: ranges never overlap, never exceed it, come in turn, and all come in the end. */
import * as fc from "fast-check";
import { expect, test } from "vitest";
import { ByteWindow } from "../../lib/cache/byte_window.js";

const PAGE = 4096;

interface Held {
  offset: number;
  bytes: number;
}

function check(window: ByteWindow, held: readonly Held[]): void {
  const sorted = [...held].sort((a, b) => a.offset - b.offset);
  let end = 0;
  for (const { offset, bytes } of sorted) {
    expect(offset).toBeGreaterThanOrEqual(end);
    end = offset + Math.ceil(bytes / PAGE) * PAGE;
  }
  expect(end).toBeLessThanOrEqual(window.capacity);
  expect(window.used).toBe(held.reduce((sum, { bytes }) => sum + Math.ceil(bytes / PAGE) * PAGE, 0));
  expect(window.peak).toBeGreaterThanOrEqual(window.used);
  expect(window.peak).toBeLessThanOrEqual(window.capacity);
}

/** Takes, releases and aborts in any order, checked after each; then releases all until nobody waits. */
test("ranges are disjoint, in turn, and given to everybody", async () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant("take" as const), bytes: fc.integer({ min: 1, max: 12 * PAGE }) }),
    fc.record({ kind: fc.constant("release" as const), pick: fc.nat() }),
    fc.record({ kind: fc.constant("abort" as const), pick: fc.nat() }),
  );
  const run = async (steps: readonly (typeof step extends fc.Arbitrary<infer S> ? S : never)[]): Promise<void> => {
    const window = new ByteWindow(16 * PAGE + 77);
    const held: Held[] = [];
    const waiting: { id: number; stop: AbortController }[] = [];
    const served: number[] = [];
    const leave = (id: number): void => {
      const place = waiting.findIndex((waiter) => waiter.id === id);
      waiting.splice(place, 1);
    };
    let id = 0;
    for (const one of steps) {
      if (one.kind === "take") {
        const own = { id: id++, stop: new AbortController() };
        waiting.push(own);
        void window.acquire(one.bytes, own.stop.signal).then((offset) => {
          leave(own.id);
          if (offset === undefined) return;
          served.push(own.id);
          held.push({ offset, bytes: one.bytes });
        });
      } else if (one.kind === "release" && held.length > 0) {
        const [range] = held.splice(one.pick % held.length, 1);
        window.release((range as Held).offset);
      } else if (one.kind === "abort" && waiting.length > 0) waiting[one.pick % waiting.length]?.stop.abort();
      await new Promise(setImmediate);
      check(window, held);
    }
    while (held.length > 0) {
      window.release((held.pop() as Held).offset);
      await new Promise(setImmediate);
      check(window, held);
    }
    expect(waiting).toEqual([]);
    expect(served).toEqual([...served].sort((a, b) => a - b));
    expect(await window.acquire(16 * PAGE)).toBe(0); // in one piece again
  };
  await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 60 }), run), { numRuns: 200 });
});

test("more than the window has is refused at once, and a range is released once only", async () => {
  const window = new ByteWindow(2 * PAGE);
  expect(await window.acquire(2 * PAGE + 1)).toBeUndefined();
  expect(await window.acquire(1, AbortSignal.abort())).toBeUndefined();
  const offset = (await window.acquire(PAGE)) as number;
  await window.acquire(PAGE);
  window.release(offset);
  window.release(offset);
  expect(window.used).toBe(PAGE);
});
