/** How a hybrid decode shares pages out: laws of the arithmetic, and every page exactly once. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { cpuPagesFor, firstRates, leastPages, RateMeter, sharePages } from "../../lib/model/hybrid_plan.js";

const rates = fc.record({
  cpuBytesPerUs: fc.double({ min: 1, max: 1e6, noNaN: true }),
  linkBytesPerUs: fc.double({ min: 1, max: 1e6, noNaN: true }),
  serialUs: fc.double({ min: 0, max: 1e5, noNaN: true }),
});
const pages = fc.integer({ min: 0, max: 100_000 });
const layerBytes = fc.integer({ min: 1, max: 1 << 22 });

describe("cpuPagesFor", () => {
  test("leaves each side some pages where there are two or more", () => {
    fc.assert(
      fc.property(pages, layerBytes, rates, (count, bytes, measured) => {
        const cpu = cpuPagesFor(count, bytes, measured);
        expect(Number.isInteger(cpu)).toBe(true);
        const least = leastPages(count);
        expect(least).toBe(count < 2 ? 0 : count < 128 ? 1 : Math.floor(count / 64));
        expect(cpu).toBeGreaterThanOrEqual(least);
        expect(cpu).toBeLessThanOrEqual(count - least);
      }),
    );
  });

  test("no other share ends sooner, within a page", () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 500 }), layerBytes, rates, (count, bytes, measured) => {
        const time = (cpu: number): number =>
          Math.max(measured.serialUs + (cpu * bytes) / measured.cpuBytesPerUs, ((count - cpu) * bytes) / measured.linkBytesPerUs);
        const chosen = cpuPagesFor(count, bytes, measured);
        const page = Math.max(bytes / measured.cpuBytesPerUs, bytes / measured.linkBytesPerUs);
        const least = leastPages(count);
        for (let cpu = least; cpu <= count - least; cpu++) expect(time(chosen)).toBeLessThanOrEqual(time(cpu) + page);
      }),
    );
  });

  test("halves pages between equal rates, and leaves a slow CPU with little", () => {
    expect(cpuPagesFor(1000, 1 << 18, { cpuBytesPerUs: 5e4, linkBytesPerUs: 5e4, serialUs: 0 })).toBe(500);
    expect(cpuPagesFor(1000, 1 << 18, { cpuBytesPerUs: 1e4, linkBytesPerUs: 4e4, serialUs: 0 })).toBe(200);
    expect(cpuPagesFor(1000, 1 << 18, { cpuBytesPerUs: 1e4, linkBytesPerUs: 4e4, serialUs: 1e9 })).toBe(15);
  });
});

describe("RateMeter", () => {
  test("begins with assumptions, then with the first measurement, then moves towards the later ones", () => {
    const meter = new RateMeter();
    expect(meter.rates).toEqual(firstRates);
    meter.add({ cpuBytesPerUs: 1000, serialUs: 0 });
    expect(meter.rates).toEqual({ ...firstRates, cpuBytesPerUs: 1000, serialUs: 0 });
    meter.add({ cpuBytesPerUs: 2000 });
    expect(meter.rates.cpuBytesPerUs).toBeCloseTo(1300);
  });

  test("ignores what is no rate", () => {
    const meter = new RateMeter();
    meter.add({ cpuBytesPerUs: Number.NaN, linkBytesPerUs: Number.POSITIVE_INFINITY, serialUs: -1 });
    meter.add({ cpuBytesPerUs: 0, linkBytesPerUs: undefined });
    expect(meter.rates).toEqual(firstRates);
  });
});

test("sharePages gives every page of every row to one side, in order", () => {
  const rows = fc.array(fc.integer({ min: 0, max: 40 }), { minLength: 1, maxLength: 5 });
  fc.assert(
    fc.property(
      rows,
      fc.nat(3),
      fc.double({ min: 0, max: 1, noNaN: true }),
      fc.integer({ min: 1, max: 30 }),
      (counts, extra, share, chunkPages) => {
        let next = 100;
        const hostSlots = counts.map((count) => Int32Array.from({ length: count }, () => next++));
        const total = next - 100;
        const { cpu, chunks, streamedPages } = sharePages(
          hostSlots,
          counts.length + extra,
          Math.round(share * total),
          chunkPages,
        );
        expect(cpu.slots.length + streamedPages).toBe(total);
        expect(chunks.every(({ slots }) => slots.length > 0 && slots.length <= chunkPages)).toBe(true);
        const seen: number[][] = counts.map(() => []);
        for (const part of [cpu, ...chunks]) {
          expect([part.firsts.length, part.counts.length]).toEqual([counts.length + extra, counts.length + extra]);
          part.counts.forEach((count, row) => {
            if (count > 0) seen[row]?.push(...part.slots.subarray(part.firsts[row], (part.firsts[row] as number) + count));
          });
        }
        expect(seen).toEqual(hostSlots.map((slots) => [...slots]));
      },
    ),
  );
});
