/** Pools with sealed pages, for tests: keys and tokens follow from a number. */
import { expect } from "vitest";
import { CACHED, FREE, NONE, type PagePool } from "../lib/cache/page_pool.js";

export const pageSize = 2;
export const root = Uint32Array.of(1, 1, 1, 1);
export const key = (id: number): Uint32Array => Uint32Array.of(id, id * 7, id * 13, id * 17);
export const tokensOf = (id: number): Int32Array => Int32Array.of(id, -id);

/** A sealed page with the key and tokens that `id` stands for. */
export function sealed(pool: PagePool, id: number, parent = NONE): number {
  const page = pool.take();
  expect(pool.seal(page, key(id), 0, parent, root, tokensOf(id), 0)).toBe(page);
  return page;
}

/** A chain of sealed pages, first to last. */
export function chain(pool: PagePool, ids: readonly number[]): Int32Array {
  const pages: number[] = [];
  for (const id of ids) pages.push(sealed(pool, id, pages.at(-1) ?? NONE));
  return Int32Array.from(pages);
}

/** The pool's books balance. */
export function balance(pool: PagePool): void {
  const counts = (of: (page: number) => number): Int32Array => Int32Array.from({ length: pool.numPages }, (_, page) => of(page));
  const refs = counts((page) => (pool.state(page) === FREE ? 0 : pool.state(page) === CACHED ? 0 : refsOf(pool, page)));
  expect(
    pool.problems(
      refs,
      counts((page) => pool.useCount(page)),
    ),
  ).toEqual([]);
}

/** References, 0 for a page that was dropped. */
function refsOf(pool: PagePool, page: number): number {
  try {
    return pool.refCount(page);
  } catch {
    return 0;
  }
}
