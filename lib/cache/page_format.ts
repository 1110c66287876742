/**
 * What the bytes of a page mean. A page covers `pageSize` tokens of every layer of one layer group; the map gives, per (layer, kv_head,
 * k | v), where the payload starts. The identity format is `[layer][kv_head][k|v][page_size][head_dim]`, so that one head's keys and
 * values are one run and a whole page is one run, which a DMA moves near link speed.
 */
import { type DType, dtypeBytes } from "../dtype.js";
import { KvasirError } from "../errors.js";

/** Layers that share head_dim, num_kv_heads and window, and therefore a page table and a pool of pages. */
export interface LayerGroup {
  /** Model layers of the group, in the order in which a page stores them. */
  layers: readonly number[];
  numKvHeads: number;
  headDim: number;
  /** Tokens that a query may see, itself included; absent: all. */
  window?: number;
  dtype: DType;
}

export interface PageFormat {
  readonly name: string;
  readonly dtype: DType;
  /** Tokens of a page. */
  readonly pageSize: number;
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  /** Bytes of a page. */
  readonly pageBytes: number;
  /** Byte offset of a payload from the start of its page, indexed by `payloadIndex`. */
  readonly offsets: Int32Array;
  /** Whether keys are stored after RoPE. */
  readonly storeRotated: boolean;
}

/** Index into `PageFormat.offsets`; `part` is 0 for keys, 1 for values. */
export function payloadIndex(format: PageFormat, layer: number, kvHead: number, part: 0 | 1): number {
  return (layer * format.numKvHeads + kvHead) * 2 + part;
}

/** Tokens per page that the kernels take: a multiple of 16 from 16 to 256. */
export function checkPageSize(pageSize: number): void {
  if (!Number.isInteger(pageSize) || pageSize < 16 || pageSize > 256 || pageSize % 16 !== 0) {
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `pageSize is ${pageSize}, expected a multiple of 16 from 16 to 256`);
  }
}

/** The format that stores keys and values as they are, in the group's dtype. */
export function identityFormat(group: LayerGroup, pageSize: number, storeRotated = true): PageFormat {
  checkPageSize(pageSize);
  const payloadBytes = pageSize * group.headDim * dtypeBytes[group.dtype];
  const numLayers = group.layers.length;
  const offsets = Int32Array.from({ length: numLayers * group.numKvHeads * 2 }, (_, index) => index * payloadBytes);
  const { dtype, numKvHeads, headDim } = group;
  return {
    name: "identity",
    dtype,
    pageSize,
    numLayers,
    numKvHeads,
    headDim,
    pageBytes: offsets.length * payloadBytes,
    offsets,
    storeRotated,
  };
}

/** The `pageOffsets` rows `[num_kv_heads, 2]` that the kernels take for one layer of the group. */
export function layerOffsets(format: PageFormat, layer: number): Int32Array {
  const perLayer = format.numKvHeads * 2;
  return format.offsets.slice(layer * perLayer, (layer + 1) * perLayer);
}
