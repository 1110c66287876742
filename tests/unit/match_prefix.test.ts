/** The longest prefix of a prompt in a pool, looked up while its keys are hashed: the same as with all keys at hand. */
import { describe, expect, test } from "vitest";
import { matchPrefix, NONE, PAGE_KEY_WORDS, PagePool, pageKeys } from "../../lib/index.js";

const pageSize = 4;
const root = Uint32Array.of(5, 6, 7, 8);
const textOf = (pages: number, seed: number): Int32Array =>
  Int32Array.from({ length: pages * pageSize }, (_, i) => (i * 7919 + seed) % 50_000);

/** A pool with the chain of these tokens. */
async function poolWith(tokens: Int32Array): Promise<{ pool: PagePool; pages: number[] }> {
  const count = tokens.length / pageSize;
  const pool = new PagePool({ slots: [count + 10], pageSize });
  const keys = await pageKeys(tokens, pageSize, root);
  const pages: number[] = [];
  for (let i = 0; i < count; i++) {
    const parent = pages[i - 1] ?? NONE;
    pages.push(pool.seal(pool.take(), keys, i * PAGE_KEY_WORDS, parent, root, tokens, i * pageSize));
  }
  return { pool, pages };
}

describe("matchPrefix", () => {
  // Hashed at once, and by the native thread: less than a part that is looked up at a time, exactly one, and several.
  test.each([0, 1, 700, 1100, 4096, 4097, 20_000])("finds all %i pages of a text, and refers to each", async (count) => {
    const tokens = textOf(count, 3);
    const { pool, pages } = await poolWith(tokens);
    expect(await matchPrefix(pool, tokens, root)).toEqual(pages);
    expect(pages.every((page) => pool.refCount(page) === 2 && pool.useCount(page) === 1)).toBe(true);
    for (const page of pages) pool.release(page, false);
  });

  test.each([0, 1, 4095, 4096, 9000])(
    "ends where the text differs, after %i pages, and at a page that is not full",
    async (same) => {
      const tokens = textOf(12_000, 3);
      const { pool, pages } = await poolWith(tokens);
      const other = Int32Array.of(...tokens, 1, 2);
      other[same * pageSize + 1] = 60_000;
      expect(await matchPrefix(pool, other, root)).toEqual(pages.slice(0, same));
      expect(await matchPrefix(pool, Int32Array.of(...tokens, 1, 2), root)).toEqual(pages);
      expect(await matchPrefix(pool, tokens, Uint32Array.of(5, 6, 7, 9))).toEqual([]);
    },
  );
});
