/** Texts that many sequences begin with: some share pages with each other, and ends lie on and off page borders. */
import { Random } from "./random.js";

const pageSize = 16;

function texts(): Int32Array[] {
  const random = new Random(1);
  const word = (length: number): number[] => Array.from({ length }, () => random.below(4));
  const system = word(3 * pageSize);
  const [first, second] = [word(2 * pageSize), word(3 * pageSize + 5)];
  return [
    [...system, ...first, ...word(pageSize + 3)],
    [...system, ...first, ...word(2 * pageSize)],
    [...system, ...second],
    [...system.slice(0, pageSize + 7), ...word(3 * pageSize)],
    word(6 * pageSize),
  ].map((tokens) => Int32Array.from(tokens));
}

export const prompts: readonly Int32Array[] = texts();
