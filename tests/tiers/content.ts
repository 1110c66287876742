/**
 * What a page holds in these tests: one number a token, a hash of the root and of all tokens up to that one. So pages of equal prefixes
 * under one salt are equal, as with real keys and values, and anything else differs.
 */

/** What no write and no copy has filled: fresh memory, and what a load leaves that did not bring the page. */
export const BLANK = -1;
/** What a failed copy leaves behind. */
export const POISON = -2;

/** The hash after one more token: 31 bits, never negative. */
export function after(hash: number, token: number): number {
  let word = Math.imul(hash ^ Math.imul(token + 0x9e37, 0x85ebca6b), 0xc2b2ae35);
  word = Math.imul(word ^ (word >>> 15), 0x27d4eb2f);
  return ((word ^ (word >>> 13)) >>> 1) & 0x7fffffff;
}

/** The hash before any token of a salt. */
export const beginning = (salt: number): number => after(77, salt);

/** The number that a layer group keeps for a hash: a page of another group is another page. */
export const inGroup = (hash: number, group: number): number => hash ^ Math.imul(group, 0x15555555);

/** Token ids of a salt's sequence and the hash after each, growing. */
export class Text {
  readonly salt: number;
  tokens: Int32Array = new Int32Array(64);
  hashes: Int32Array = new Int32Array(64);
  length = 0;

  constructor(salt: number) {
    this.salt = salt;
  }

  get end(): number {
    return this.length === 0 ? beginning(this.salt) : (this.hashes[this.length - 1] as number);
  }

  push(token: number): void {
    if (this.length === this.tokens.length) {
      const [tokens, hashes] = [this.tokens, this.hashes];
      this.tokens = new Int32Array(2 * this.length);
      this.hashes = new Int32Array(2 * this.length);
      this.tokens.set(tokens);
      this.hashes.set(hashes);
    }
    this.hashes[this.length] = after(this.end, token);
    this.tokens[this.length++] = token;
  }

  truncate(length: number): void {
    this.length = length;
  }

  clone(): Text {
    const copy = new Text(this.salt);
    copy.tokens = this.tokens.slice();
    copy.hashes = this.hashes.slice();
    copy.length = this.length;
    return copy;
  }

  /** How many leading tokens are those of `tokens`. */
  common(tokens: Int32Array, length = tokens.length): number {
    const most = Math.min(this.length, length);
    let count = 0;
    while (count < most && this.tokens[count] === tokens[count]) count++;
    return count;
  }
}
