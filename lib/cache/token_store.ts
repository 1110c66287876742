/** The token ids of sealed pages, kept to verify a hit. They come in chunks that are allocated when a page of theirs is first sealed. */

/** Pages of a chunk, as a power of two. */
const chunkShift = 12;
const chunkMask = (1 << chunkShift) - 1;

export class TokenStore {
  readonly pageSize: number;
  readonly #chunks: (Int32Array | undefined)[];
  #numChunks = 0;

  constructor(numPages: number, pageSize: number) {
    this.pageSize = pageSize;
    this.#chunks = new Array<Int32Array | undefined>((numPages >>> chunkShift) + 1).fill(undefined);
  }

  /** Bytes allocated for token ids. */
  get bytes(): number {
    return this.#numChunks * (pageBytesOf(this.pageSize) << chunkShift);
  }

  /** Keeps `tokens[from, from + pageSize)` as the page's. */
  set(page: number, tokens: Int32Array, from: number): void {
    const { pageSize } = this;
    let chunk = this.#chunks[page >>> chunkShift];
    if (chunk === undefined) {
      chunk = new Int32Array(pageSize << chunkShift);
      this.#chunks[page >>> chunkShift] = chunk;
      this.#numChunks++;
    }
    const at = (page & chunkMask) * pageSize;
    for (let i = 0; i < pageSize; i++) chunk[at + i] = tokens[from + i] as number;
  }

  /** The page's tokens, a view: valid while the page is. Empty for a page that was never sealed. */
  of(page: number): Int32Array {
    const at = (page & chunkMask) * this.pageSize;
    return this.#chunks[page >>> chunkShift]?.subarray(at, at + this.pageSize) ?? new Int32Array(0);
  }

  /** Whether the page's tokens are `tokens[from, from + pageSize)`. */
  equals(page: number, tokens: Int32Array, from: number): boolean {
    const chunk = this.#chunks[page >>> chunkShift];
    if (chunk === undefined || from + this.pageSize > tokens.length) return false;
    const at = (page & chunkMask) * this.pageSize;
    // Four at a time without a branch: this is most of what a hit costs.
    const { pageSize } = this;
    let i = 0;
    for (; i + 4 <= pageSize; i += 4) {
      const difference =
        ((chunk[at + i] as number) ^ (tokens[from + i] as number)) |
        ((chunk[at + i + 1] as number) ^ (tokens[from + i + 1] as number)) |
        ((chunk[at + i + 2] as number) ^ (tokens[from + i + 2] as number)) |
        ((chunk[at + i + 3] as number) ^ (tokens[from + i + 3] as number));
      if (difference !== 0) return false;
    }
    for (; i < pageSize; i++) if (chunk[at + i] !== tokens[from + i]) return false;
    return true;
  }
}

const pageBytesOf = (pageSize: number): number => pageSize * Int32Array.BYTES_PER_ELEMENT;
