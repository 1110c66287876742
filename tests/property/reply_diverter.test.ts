/** The reply diverter, over replies of every kind cut anywhere: pages end in their places, and the client sees the rest. */
import * as fc from "fast-check";
import { expect, test } from "vitest";
import { type PagePlace, ReplyDiverter } from "../../lib/cache/reply_diverter.js";

const PLACE_BYTES = 40_000;

interface Case {
  /** As the server sends it. */
  sent: Buffer;
  /** As the client shall see it. */
  seen: Buffer;
  /** The command asked for a page. */
  isPage: boolean;
  /** What then lies in the page's place. */
  kept: Buffer;
}

const line = (text: string, isPage = false): Case => {
  const bytes = Buffer.from(`${text}\r\n`);
  return { sent: bytes, seen: bytes, isPage, kept: Buffer.alloc(0) };
};
function bulk(payload: Buffer, isPage: boolean): Case {
  const sent = Buffer.concat([Buffer.from(`$${payload.length}\r\n`), payload, Buffer.from("\r\n")]);
  const seen = isPage ? Buffer.from(`:${payload.length}\r\n`) : sent;
  return { sent, seen, isPage, kept: isPage ? payload.subarray(0, PLACE_BYTES) : Buffer.alloc(0) };
}

/** Bytes that look like replies, too. */
const payload = fc.tuple(fc.oneof(fc.nat(100), fc.nat(20_000), fc.nat(60_000)), fc.nat(255)).map(([length, seed]) => {
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i++) bytes[i] = seed % 3 === 0 ? "\r\n$5+:-"[i % 7]!.charCodeAt(0) : i * seed + (i >> 8);
  return bytes;
});
const reply: fc.Arbitrary<Case> = fc.oneof(
  fc.constantFrom("+OK", ":17", "-ERR no such thing", "$-1").map((text) => line(text)),
  fc.constantFrom("$-1", "-LOADING not yet", "-ERR wrong type").map((text) => line(text, true)),
  payload.map((bytes) => bulk(bytes, true)),
  payload.map((bytes) => bulk(bytes, false)),
);

/** Feeds the stream in reads of at most so many bytes, each into the memory that the diverter offers. */
function feed(diverter: ReplyDiverter, stream: Buffer, reads: readonly number[]): Buffer {
  const seen: Buffer[] = [];
  for (let at = 0, i = 0; at < stream.length; i++) {
    const memory = diverter.buffer();
    expect(memory.length).toBeGreaterThan(0);
    const count = Math.min(memory.length, stream.length - at, reads[i % reads.length] as number);
    memory.set(stream.subarray(at, at + count));
    const out = diverter.read(count, memory);
    if (out !== undefined) seen.push(out);
    at += count;
  }
  return Buffer.concat(seen);
}

const readSizes = fc.array(fc.oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 100_000 })), {
  minLength: 1,
  maxLength: 20,
});

test("pages go to their places and the client sees lengths in their stead, however the stream is cut", () => {
  fc.assert(
    fc.property(fc.array(reply, { minLength: 1, maxLength: 12 }), readSizes, (cases, reads) => {
      const target = Buffer.alloc(cases.length * PLACE_BYTES + 64, 0xee);
      const expected = Buffer.from(target);
      const diverter = new ReplyDiverter(target);
      for (const [i, { isPage, kept }] of cases.entries()) {
        const place: PagePlace = { offset: 32 + i * PLACE_BYTES, bytes: PLACE_BYTES };
        diverter.expect(isPage ? place : undefined);
        expected.set(kept, place.offset);
      }
      const seen = feed(diverter, Buffer.concat(cases.map(({ sent }) => sent)), reads);
      expect(Buffer.compare(seen, Buffer.concat(cases.map((one) => one.seen)))).toBe(0);
      expect(Buffer.compare(target, expected)).toBe(0);
    }),
    { numRuns: 400 },
  );
});

test("replies that nobody announced pass, as those of a client's own handshake", () => {
  const stream = Buffer.concat([line("+OK").sent, bulk(Buffer.from("some\r\nvalue"), false).sent, line(":1").sent]);
  expect(feed(new ReplyDiverter(Buffer.alloc(10)), stream, [5]).equals(stream)).toBe(true);
});

test("at a reply of another form it steps aside for good", () => {
  const diverter = new ReplyDiverter(Buffer.alloc(100));
  for (let i = 0; i < 4; i++) diverter.expect({ offset: 0, bytes: 100 });
  const stream = Buffer.concat([Buffer.from("*2\r\n$3\r\nabc\r\n:1\r\n"), bulk(Buffer.alloc(50), true).sent]);
  expect(feed(diverter, stream, [7]).equals(stream)).toBe(true);
});
