/**
 * The tokens of a session, and how their keys and values came to be, so that lost ones can be computed again with the same bits.
 *
 * Tokens [0, settled) are, or have been, in the session's pages; those after it (at most one: the last of an answer) are still to be read.
 * Where a model's results depend on how a text is cut into passes, parts are remembered by the way they were made: "steady" ones may be
 * cut anyhow into pieces of at least `steadyPiece` tokens, "exact" ones are one piece, "single" ones are pieces of one token.
 */
export type Way = "steady" | "exact" | "single";

interface Part {
  way: Way;
  end: number;
}

/** A place to come back to: what `truncate` takes. */
export interface Mark {
  length: number;
  settled: number;
}

export class Context {
  readonly #steadyPiece: number;
  #tokens: Int32Array = new Int32Array(64);
  #length = 0;
  #settled = 0;
  /** Side by side; the last one ends at `settled`. Empty where every cut gives the same. */
  #parts: Part[] = [];

  constructor(steadyPiece: number) {
    this.#steadyPiece = steadyPiece;
  }

  get length(): number {
    return this.#length;
  }

  /** Tokens that belong into the session's pages. */
  get settled(): number {
    return this.#settled;
  }

  get mark(): Mark {
    return { length: this.#length, settled: this.#settled };
  }

  at(index: number): number {
    return this.#tokens[index] as number;
  }

  slice(from: number, to: number): Int32Array {
    return this.#tokens.slice(from, to);
  }

  /** Adds tokens that are to be read. */
  append(tokens: ArrayLike<number>): void {
    this.#grow(this.#length + tokens.length);
    this.#tokens.set(tokens, this.#length);
    this.#length += tokens.length;
    this.#settle(this.#length - this.#settled < this.#steadyPiece ? "exact" : "steady");
  }

  /** Adds a token that was chosen; the one before it, if it was chosen too, went into the pages by a step. */
  push(token: number): void {
    this.#settle("single");
    this.#grow(this.#length + 1);
    this.#tokens[this.#length++] = token;
  }

  /** Forgets what came after a mark. */
  truncate({ length, settled }: Mark): void {
    this.#length = length;
    this.#settled = settled;
    while (this.#parts.length > 0 && this.#start(this.#parts.length - 1) >= settled) this.#parts.pop();
    const last = this.#parts.at(-1);
    if (last !== undefined) last.end = Math.min(last.end, settled);
  }

  /** The last place up to `position` from which the rest can be read again with the same bits. */
  restart(position: number): number {
    const index = this.#partOf(position);
    const part = this.#parts[index];
    if (part === undefined || part.way === "single") return position;
    const start = this.#start(index);
    if (part.way === "exact") return start;
    return Math.max(start, Math.min(position, part.end - this.#steadyPiece));
  }

  /** Tokens of the next piece from `position` on, within `budget`; 0 where the budget is too small for any. */
  nextPiece(position: number, budget: number): number {
    const part = this.#parts[this.#partOf(position)];
    if (part === undefined) return Math.min(budget, this.#settled - position);
    if (part.way === "single") return Math.min(budget, 1);
    const rest = part.end - position;
    if (rest <= budget) return rest;
    if (part.way === "exact") return 0;
    const count = Math.min(budget, rest - this.#steadyPiece);
    return count < this.#steadyPiece ? 0 : count;
  }

  /** How the tokens [from, to) are computed, as far as it shows in their bits: nothing but "steady" parts is "". */
  trace(from: number, to: number): string {
    let text = "";
    for (let index = this.#partOf(from); index < this.#parts.length && this.#start(index) < to; index++) {
      const { way, end } = this.#parts[index] as Part;
      const [first, last] = [Math.max(from, this.#start(index)), Math.min(to, end)];
      if (way === "single") text += `single ${first} ${last};`;
      if (way === "exact") text += `exact ${this.#start(index)} ${end};`;
    }
    return text;
  }

  fork(): Context {
    const child = new Context(this.#steadyPiece);
    child.#tokens = this.#tokens.slice();
    child.#length = this.#length;
    child.#settled = this.#settled;
    child.#parts = this.#parts.map((part) => ({ ...part }));
    return child;
  }

  #settle(way: Way): void {
    const from = this.#settled;
    this.#settled = this.#length;
    if (this.#steadyPiece <= 1 || from === this.#length) return;
    const last = this.#parts.at(-1);
    if (last !== undefined && last.way === way && way !== "exact") last.end = this.#length;
    else this.#parts.push({ way, end: this.#length });
  }

  #start(index: number): number {
    return this.#parts[index - 1]?.end ?? 0;
  }

  /** Index of the part that holds `position`; the number of parts where none does. */
  #partOf(position: number): number {
    let low = 0;
    let high = this.#parts.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#parts[middle] as Part).end > position) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  #grow(length: number): void {
    if (length <= this.#tokens.length) return;
    const grown = new Int32Array(Math.max(length, 2 * this.#tokens.length));
    grown.set(this.#tokens.subarray(0, this.#length));
    this.#tokens = grown;
  }
}
