/**
 * Takes pages out of a server's stream of replies before the client sees it, so that their bytes go from the socket to their place in one
 * step instead of through chunks on the heap. In place of the page the client gets its length, as an integer reply. All other replies
 * pass as they are.
 *
 *   in    +OK\r\n  $1048960\r\n <1048960 bytes> \r\n  $-1\r\n        out    +OK\r\n  :1048960\r\n  $-1\r\n
 *
 * Replies come in the order of the commands, so that each is announced by `expect` when its command is sent. It reads RESP2 as far as the
 * commands on such a connection are answered in it: lines and strings. At anything else it steps aside for good.
 */

/** Where a page goes; what is beyond `bytes` is dropped. */
export interface PagePlace {
  offset: number;
  bytes: number;
}

const SCRATCH_BYTES = 65536;
/** Of a page this much is read in place; a shorter rest comes together with the replies behind it. */
const LEAST_DIRECT_BYTES = 16384;
const DOLLAR = 0x24;
const LINES = new Set([..."+-:"].map((type) => type.charCodeAt(0)));

/** On its way: `length` bytes, of which the first `kept` go to `offset`, and `done` are there. */
interface Page {
  offset: number;
  length: number;
  kept: number;
  done: number;
}

export class ReplyDiverter {
  readonly #target: Uint8Array;
  readonly #scratch: Buffer = Buffer.allocUnsafeSlow(SCRATCH_BYTES);
  readonly #expected: (PagePlace | undefined)[] = [];
  #out: Uint8Array[] = [];
  /** Begin of a line whose end has not come. */
  #partial: Uint8Array = new Uint8Array(0);
  #page: Page | undefined;
  /** Bytes that are to be dropped, or passed on, before the next line. */
  #drop = 0;
  #pass = 0;
  #isAside = false;

  /** @param target the memory that places lie in */
  constructor(target: Uint8Array) {
    this.#target = target;
  }

  /** Announces the reply to the command that is sent next: a page with its place, or another one. */
  expect(place?: PagePlace): void {
    this.#expected.push(place);
  }

  /** Memory for the bytes that are read next. */
  buffer(): Uint8Array {
    const page = this.#page;
    if (page === undefined) return this.#scratch;
    if (page.kept - page.done < LEAST_DIRECT_BYTES) return this.#scratch;
    return this.#target.subarray(page.offset + page.done, page.offset + page.kept);
  }

  /** Takes the `count` bytes that were read into `memory`, the latest `buffer()`; returns what the client is to see of them, if anything. */
  read(count: number, memory: Uint8Array): Buffer | undefined {
    if (memory === this.#scratch) this.#take(memory.subarray(0, count));
    else this.#advance(count);
    if (this.#out.length === 0) return undefined;
    const out = Buffer.concat(this.#out); // a copy, for the scratch memory is used again
    this.#out = [];
    return out;
  }

  /** So many more bytes of the page are in their place. */
  #advance(count: number): void {
    const page = this.#page as Page;
    page.done += count;
    if (page.done < page.kept) return;
    this.#page = undefined;
    this.#drop = page.length - page.kept + 2; // the line's end, too
    this.#out.push(Buffer.from(`:${page.length}\r\n`));
  }

  #take(bytes: Uint8Array): void {
    let rest = bytes;
    while (rest.length > 0) {
      if (this.#isAside) {
        this.#out.push(rest);
        return;
      }
      if (this.#page !== undefined) rest = this.#fill(rest);
      else if (this.#drop > 0) {
        const count = Math.min(this.#drop, rest.length);
        this.#drop -= count;
        rest = rest.subarray(count);
      } else if (this.#pass > 0) {
        const count = Math.min(this.#pass, rest.length);
        this.#pass -= count;
        this.#out.push(rest.subarray(0, count));
        rest = rest.subarray(count);
      } else rest = this.#line(rest);
    }
  }

  #fill(bytes: Uint8Array): Uint8Array {
    const { offset, kept, done } = this.#page as Page;
    const count = Math.min(bytes.length, kept - done);
    this.#target.set(bytes.subarray(0, count), offset + done);
    this.#advance(count);
    return bytes.subarray(count);
  }

  /** Reads one line, or keeps what there is of it; returns what is behind. */
  #line(bytes: Uint8Array): Uint8Array {
    const end = bytes.indexOf(0x0a); // no line has one before its end
    if (end < 0) {
      this.#partial = Buffer.concat([this.#partial, bytes]);
      return bytes.subarray(bytes.length);
    }
    const line = Buffer.concat([this.#partial, bytes.subarray(0, end + 1)]);
    this.#partial = new Uint8Array(0);
    const rest = bytes.subarray(end + 1);
    const [type] = line;
    if (type === undefined || (type !== DOLLAR && !LINES.has(type))) this.#isAside = true;
    const place = this.#expected.shift();
    const length = type === DOLLAR ? Number(line.toString("latin1", 1, line.length - 2)) : -1;
    if (length >= 0 && place !== undefined) {
      this.#page = { offset: place.offset, length, kept: Math.min(length, place.bytes), done: 0 };
      this.#advance(0); // an empty one is there already
      return rest;
    }
    this.#out.push(line);
    if (length >= 0) this.#pass = length + 2;
    return rest;
  }
}
