/**
 * Sets of small integers as bits with summary levels above them: level k + 1 has a bit for each word of level k that is not zero, so that
 * the first member at or after a place is found in one step a level, log32(size) in all. `SlotMap` hands out the slots of an arena with it,
 * the lowest free one first, which keeps the used part of an arena dense and its runs long.
 */
import { KvasirError } from "../errors.js";
import { NONE } from "./page_lists.js";

const wordBits = 5;
const wordMask = 31;

export class BitTree {
  readonly size: number;
  /** levels[0] holds the members' bits. */
  readonly levels: readonly Int32Array[];

  constructor(size: number) {
    this.size = size;
    const levels: Int32Array[] = [];
    for (let words = size; words > 1 || levels.length === 0; ) {
      words = Math.max(1, Math.ceil(words / 32));
      levels.push(new Int32Array(words));
    }
    this.levels = levels;
  }

  get metadataBytes(): number {
    return this.levels.reduce((sum, level) => sum + level.byteLength, 0);
  }

  has(member: number): boolean {
    return (((this.levels[0] as Int32Array)[member >>> wordBits] as number) & (1 << (member & wordMask))) !== 0;
  }

  add(member: number): void {
    this.#set(0, member);
  }

  delete(member: number): void {
    this.#clear(0, member);
  }

  /** For whoever writes words of level 0: the word is no longer zero. */
  wordFilled(word: number): void {
    this.#set(1, word);
  }

  /** For whoever writes words of level 0: the word is zero now. */
  wordEmptied(word: number): void {
    this.#clear(1, word);
  }

  #set(from: number, bit: number): void {
    let at = bit;
    for (let depth = from; depth < this.levels.length; depth++) {
      const level = this.levels[depth] as Int32Array;
      const word = level[at >>> wordBits] as number;
      level[at >>> wordBits] = word | (1 << (at & wordMask));
      if (word !== 0) return;
      at >>>= wordBits;
    }
  }

  #clear(from: number, bit: number): void {
    let at = bit;
    for (let depth = from; depth < this.levels.length; depth++) {
      const level = this.levels[depth] as Int32Array;
      const word = (level[at >>> wordBits] as number) & ~(1 << (at & wordMask));
      level[at >>> wordBits] = word;
      if (word !== 0) return;
      at >>>= wordBits;
    }
  }

  /** Makes every integer below `size` a member. */
  fill(): void {
    let members = this.size;
    for (const level of this.levels) {
      level.fill(-1);
      if ((members & wordMask) !== 0) level[members >>> wordBits] = (1 << (members & wordMask)) - 1;
      if (members === 0) level.fill(0);
      members = (members + wordMask) >>> wordBits;
    }
  }

  /** The least member that is at least `from`, or NONE. */
  nextFrom(from: number): number {
    let at = from;
    for (let depth = 0; depth < this.levels.length; depth++) {
      const level = this.levels[depth] as Int32Array;
      const index = at >>> wordBits;
      if (index >= level.length) return NONE;
      const word = (level[index] as number) & (-1 << (at & wordMask));
      if (word !== 0) return this.#descend(depth, (index << wordBits) + lowestBit(word));
      at = index + 1;
    }
    return NONE;
  }

  /** The least member below what bit `at` of level `depth` stands for. */
  #descend(depth: number, at: number): number {
    let place = at;
    for (let level = depth - 1; level >= 0; level--) {
      place = (place << wordBits) + lowestBit((this.levels[level] as Int32Array)[place] as number);
    }
    return place;
  }
}

const lowestBit = (word: number): number => 31 - Math.clz32(word & -word);

/** The slots of one arena. */
export class SlotMap {
  readonly size: number;
  /** Members are the free slots. */
  readonly #tree: BitTree;
  readonly #words: Int32Array;
  /** No free slot lies below this word. */
  #word = 0;
  #numFree: number;
  #peakUsed = 0;

  constructor(size: number) {
    this.size = size;
    this.#tree = new BitTree(size);
    this.#tree.fill();
    this.#words = this.#tree.levels[0] as Int32Array;
    this.#numFree = size;
  }

  get numFree(): number {
    return this.#numFree;
  }

  /** Most slots in use at once. */
  get peakUsed(): number {
    return this.#peakUsed;
  }

  get metadataBytes(): number {
    return this.#tree.metadataBytes;
  }

  isFree(slot: number): boolean {
    return this.#tree.has(slot);
  }

  /** The lowest free slot, or NONE. */
  take(): number {
    if (this.#numFree === 0) return NONE;
    let index = this.#word;
    let word = this.#words[index] as number;
    if (word === 0) {
      index = this.#tree.nextFrom(index << wordBits) >>> wordBits;
      word = this.#words[index] as number;
      this.#word = index;
    }
    const rest = word & (word - 1);
    this.#words[index] = rest;
    if (rest === 0) this.#tree.wordEmptied(index);
    this.#numFree--;
    const used = this.size - this.#numFree;
    if (used > this.#peakUsed) this.#peakUsed = used;
    return (index << wordBits) + lowestBit(word);
  }

  /** @throws ERR_KVASIR_INTERNAL for a slot that is free already. */
  give(slot: number): void {
    const index = slot >>> wordBits;
    const bit = 1 << (slot & wordMask);
    const word = this.#words[index] as number;
    if ((word & bit) !== 0) throw new KvasirError("ERR_KVASIR_INTERNAL", `Slot ${slot} is freed twice`);
    this.#words[index] = word | bit;
    if (word === 0) this.#tree.wordFilled(index);
    this.#numFree++;
    if (index < this.#word) this.#word = index;
  }
}
