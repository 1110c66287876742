/**
 * What waits on a stream. A driver's stream takes about a thousand operations; the next call holds its caller, and here that would be the
 * event loop, until one of them is done. Who enqueues more than that at a time asks here, in between, whether to wait instead.
 */
import type { Stream } from "../stream.js";

/** Of a stream of CUDA, 1020 wait at most. */
const mostOps = 768;
/** From one look at the stream's progress to the next: each costs the stream a call of the host. */
const opsBetweenMarks = 96;

export class Backlog {
  readonly #stream: Stream;
  /** Points that the stream has not passed, oldest first; each resolves when what lies before it is no longer counted. */
  readonly #marks: Promise<void>[] = [];
  #ops = 0;
  #unmarked = 0;

  constructor(stream: Stream) {
    this.#stream = stream;
  }

  /** Notes that `ops` operations were enqueued. */
  add(ops: number): void {
    this.#ops += ops;
    this.#unmarked += ops;
    if (this.#unmarked >= opsBetweenMarks) this.#mark();
  }

  /** Whether `ops` more would be too many. */
  isFull(ops: number): boolean {
    return this.#marks.length > 0 && this.#ops + ops > mostOps;
  }

  /** Resolves when some of what waits is done. @throws (rejection) as `stream.finished` */
  async shrink(): Promise<void> {
    await this.#marks[0];
  }

  #mark(): void {
    const ops = this.#unmarked;
    this.#unmarked = 0;
    const passed = this.#stream.finished().then(() => {
      this.#marks.shift(); // a stream passes its marks in order
      this.#ops -= ops;
    });
    passed.catch(() => undefined); // `shrink` tells
    this.#marks.push(passed);
  }
}
