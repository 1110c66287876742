/**
 * Pages between a pool in host memory and a staging SharedArrayBuffer that other threads send from and receive into. A native thread
 * copies, and builds or checks the envelope that goes before each payload.
 */
import { KvasirError, fromNative, settle } from "./errors.js";
import { type NativeStagedPages, addon } from "./native.js";
import { describe } from "./options.js";
import { Tensor, nativeTensor } from "./tensor.js";

/** Pages of one layer group; arrays run side by side. */
export interface StagedPages {
  /** Of a CPU device: [slots, elements of a page]. */
  pool: Tensor;
  slots: Int32Array;
  /** Over a SharedArrayBuffer. */
  staging: Uint8Array;
  /** Where each page lies in `staging`; it takes `stagedBytes` there. */
  offsets: Float64Array;
  /** 16 bytes: what pages mean. */
  fingerprint: Uint8Array;
  group: number;
  /** Tokens of a page. */
  pageSize: number;
  /** Four words a page. */
  keys: Uint32Array;
  parents: Uint32Array;
  /** `pageSize` a page. */
  tokens: Int32Array;
}

/** Bytes that a page takes with its envelope. @throws ERR_KVASIR_INVALID_ARGUMENT */
export function stagedBytes(pageSize: number, pageBytes: number): number {
  try {
    return addon().envelopeBytes(pageSize) + pageBytes;
  } catch (error) {
    throw fromNative(error);
  }
}

function native(pages: StagedPages): NativeStagedPages {
  const { pool, slots, staging, offsets, fingerprint, group, pageSize, keys, parents, tokens } = pages;
  if (!(pool instanceof Tensor))
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `pool is ${describe(pool)}, expected a Tensor`);
  return [nativeTensor(pool), slots, staging, offsets, fingerprint, group, pageSize, keys, parents, tokens];
}

/**
 * Copies pages from their slots, which must not change meanwhile, and writes their envelopes.
 * @throws ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_SHAPE, ERR_KVASIR_PAGE_OUT_OF_RANGE, ERR_KVASIR_DISPOSED (rejections)
 */
export async function sealPages(pages: StagedPages): Promise<void> {
  await settle(() => addon().sealPages(...native(pages)));
}

/**
 * Checks staged pages and copies them into their slots: a byte for each, 0 where every part of the envelope is that of `pages` and the
 * payload has its checksum. Where it is not 0 the slot holds garbage.
 * @param lengths bytes that arrived of each
 * @throws as sealPages
 */
export async function openPages(pages: StagedPages, lengths: Float64Array): Promise<Uint8Array> {
  return new Uint8Array(await settle(() => addon().openPages(...native(pages), lengths)));
}
