/** What a model does with sequences: it reads what they have, writes what follows, and tells the cache the tokens. */
import { KvasirError } from "../../lib/errors.js";
import { inGroup, POISON } from "./content.js";
import type { PageMemory } from "./machine.js";
import { prompts } from "./prompts.js";
import type { Entry, World } from "./world.js";

export const codeOf = (error: unknown): string | undefined => (error instanceof KvasirError ? error.code : undefined);

/** Runs `act`; true if it threw one of the codes. */
export function refuses(act: () => void, ...codes: string[]): boolean {
  try {
    act();
    return false;
  } catch (error) {
    if (codes.includes(codeOf(error) ?? "")) return true;
    throw error;
  }
}

/** The token after a text: mostly the next one of a sequence's prompt, as long as it began like that, or one of few. */
function nextToken({ text, id }: Entry, a: number, i: number): number {
  if (a % 5 !== 0) {
    const prompt = prompts[id % prompts.length] as Int32Array;
    if (text.length < prompt.length && text.common(prompt, text.length) === text.length) return prompt[text.length] as number;
  }
  return a % 3 === 0 ? (a + i * 7) & 3 : text.length & 1;
}

/** Tells the cache of the tokens that it was not told of. */
export function note(world: World, entry: Entry): void {
  const { text, sequence } = entry;
  if (entry.noted >= text.length) return;
  world.manager.noteTokens(sequence, entry.noted, text.tokens.slice(entry.noted, text.length));
  entry.noted = text.length;
  entry.ahead = undefined;
}

/** One step of a model for several sequences: each reads what it has and writes what follows. */
export function step(world: World, entries: readonly Entry[], counts: readonly number[], a: number): boolean {
  const { cache } = world;
  const rows = entries.map(({ sequence }) => sequence.row);
  if (refuses(() => cache.reserve(rows, counts), "ERR_KVASIR_OUT_OF_PAGES")) return false;
  entries.forEach((entry, i) => {
    const count = counts[i] as number;
    const { text, sequence } = entry;
    const seen = world.read(entry);
    const from = text.length;
    for (let k = 0; k < count; k++) text.push(k === 0 && entry.ahead !== undefined ? entry.ahead : nextToken(entry, a, k));
    for (const group of cache.groups.keys()) {
      const mapping = new Int32Array(count);
      cache.slotMapping(group, sequence.row, from, count, mapping, 0);
      const words = text.hashes.slice(from, from + count);
      const memory = world.device[group] as PageMemory;
      world.machine.compute(() => {
        for (let k = 0; k < count; k++)
          memory.words[mapping[k] as number] = seen.isPoison ? POISON : inGroup(words[k] as number, group);
      });
    }
    sequence.commit(count);
  });
  return true;
}

export function cutText(entry: Entry, length: number): void {
  if (length < entry.text.length) entry.ahead = undefined;
  entry.text.truncate(length);
  entry.noted = Math.min(entry.noted, length);
}
