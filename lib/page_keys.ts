/** Stand-in until the native one is merged. */
import { createHash } from "node:crypto";

export function pageKeysSync(tokens: Int32Array, pageSize: number, parent: Uint32Array): Uint32Array {
  const pages = Math.floor(tokens.length / pageSize);
  const keys = new Uint32Array(pages * 4);
  let before: Uint32Array = parent;
  for (let page = 0; page < pages; page++) {
    const hash = createHash("sha256");
    hash
      .update(new Uint8Array(before.slice().buffer))
      .update(new Uint8Array(tokens.slice(page * pageSize, (page + 1) * pageSize).buffer));
    const digest = hash.digest();
    before = new Uint32Array(new Uint8Array(digest.subarray(0, 16)).buffer);
    keys.set(before, page * 4);
  }
  return keys;
}

export async function pageKeys(tokens: Int32Array, pageSize: number, parent: Uint32Array): Promise<Uint32Array> {
  return pageKeysSync(tokens, pageSize, parent);
}
