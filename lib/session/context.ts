/**
 * The tokens of a session, so that pages that were lost can be read again. Tokens [0, settled) are, or have been, in the session's pages;
 * those after it (at most one: the last of an answer) are still to be read.
 */

/** A place to come back to: what `truncate` takes. */
export interface Mark {
  length: number;
  settled: number;
}

export class Context {
  #tokens: Int32Array = new Int32Array(64);
  #length = 0;
  #settled = 0;

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
    this.#settled = this.#length;
  }

  /** Adds a token that was chosen; the one before it, if it was chosen too, went into the pages by a step. */
  push(token: number): void {
    this.#settled = this.#length;
    this.#grow(this.#length + 1);
    this.#tokens[this.#length++] = token;
  }

  /** Forgets what came after a mark. */
  truncate({ length, settled }: Mark): void {
    this.#length = length;
    this.#settled = settled;
  }

  fork(): Context {
    const child = new Context();
    child.#tokens = this.#tokens.slice();
    child.#length = this.#length;
    child.#settled = this.#settled;
    return child;
  }

  #grow(length: number): void {
    if (length <= this.#tokens.length) return;
    const grown = new Int32Array(Math.max(length, 2 * this.#tokens.length));
    grown.set(this.#tokens.subarray(0, this.#length));
    this.#tokens = grown;
  }
}
