/** What naming pages costs: keys of 1 M tokens by page size on a native thread, beside node:crypto on this one. */
import { createHash, randomBytes } from "node:crypto";
import { type Device, pageKeys, rootKey } from "../../lib/index.js";
import { summarise } from "../harness.js";
import type { Row } from "../results.js";

const TOKENS = 2 ** 20;
const SAMPLES = 30;

/** The chain by node:crypto, one hash a page; microseconds. */
function viaCrypto(tokens: Int32Array, pageSize: number, root: Uint32Array): number {
  const begin = performance.now();
  const bytes = new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength);
  const head = Buffer.alloc(4);
  head.writeUInt32LE(pageSize);
  let key: Uint8Array = new Uint8Array(root.buffer, root.byteOffset, 16);
  for (let at = 0; at < bytes.length; at += 4 * pageSize) {
    const hash = createHash("sha256").update("kvasir page").update(key).update(head);
    key = hash
      .update(bytes.subarray(at, at + 4 * pageSize))
      .digest()
      .subarray(0, 16);
  }
  return (performance.now() - begin) * 1e3;
}

export async function pageKeyRates(_device: Device, _ceilings: object, report: (row: Row) => void): Promise<void> {
  const noise = randomBytes(4 * TOKENS);
  const tokens = new Int32Array(noise.buffer.slice(noise.byteOffset, noise.byteOffset + noise.length));
  const root = rootKey({ fingerprint: randomBytes(16) });
  for (const pageSize of [16, 64, 256]) {
    const samples: number[] = [];
    for (let i = -3; i < SAMPLES; i++) {
      const begin = performance.now();
      await pageKeys(tokens, pageSize, root);
      if (i >= 0) samples.push((performance.now() - begin) * 1e3);
    }
    const timing = summarise(samples);
    const limitUs = 15_000;
    report({
      op: "page_keys",
      variant: `1 M tokens, pages of ${pageSize}`,
      shape: { batch: 1, qoLen: 0, kvLen: TOKENS, qoHeads: 0, kvHeads: 0, headDim: 0, pageSize },
      dtype: "i32",
      ...timing,
      gb_per_s: (4 * TOKENS) / 1e9 / (timing.median_us / 1e6),
      ceiling: { name: "limit_us", value: limitUs },
      share_of_ceiling: timing.median_us / limitUs,
      figures: { ns_per_token: (timing.median_us * 1e3) / TOKENS },
      peers: { node_crypto: viaCrypto(tokens, pageSize, root) },
      max_abs_err: 0,
      tolerance: 0,
      pass: true,
    });
  }
}
