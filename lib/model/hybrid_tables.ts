/** The page tables of a hybrid step: which pages of the host pool the CPU reads, which come through the ring, and those on the device. */
import type { Device } from "../device.js";
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import type { HybridShares, RowPages } from "./hybrid_plan.js";

/** What `attention` takes of a page table. */
export interface RowTable {
  /** [rows] i32 */
  rowStart: Tensor;
  /** [rows] i32, tokens */
  kvLen: Tensor;
  /** [entries] i32 */
  pageIndices: Tensor;
}

export interface HybridTableParts {
  device: Device;
  stream: Stream;
  host: Device;
  hostStream: Stream;
  rows: number;
  pageSize: number;
  chunkPages: number;
  ringChunks: number;
  /** [ringChunks * chunkPages] i32 on the device: 0, 1, 2, ... */
  ringIndices: Tensor;
}

const tokensOf = ({ counts }: RowPages, pageSize: number): Int32Array => counts.map((count) => count * pageSize);

/** Tables of one way of sharing the pages out; dispose it when another takes its place. */
export class ShareTables {
  readonly shares: HybridShares;
  /** Absent where the CPU has nothing to do. */
  readonly cpu: RowTable | undefined;
  /** [chunk][place in the ring] */
  readonly chunks: readonly (readonly RowTable[])[];
  readonly #owned: Tensor[] = [];

  constructor(parts: HybridTableParts, shares: HybridShares) {
    this.shares = shares;
    this.cpu = shares.cpu.slots.length > 0 ? this.#cpuTable(parts, shares.cpu) : undefined;
    this.chunks = this.#chunkTables(parts, shares.chunks);
  }

  dispose(): void {
    for (const tensor of this.#owned) tensor.dispose();
  }

  #own(tensor: Tensor): Tensor {
    this.#owned.push(tensor);
    return tensor;
  }

  #cpuTable({ host, hostStream: stream, rows, pageSize }: HybridTableParts, pages: RowPages): RowTable {
    const upload = (values: Int32Array): Tensor => this.#own(host.tensor("i32", [values.length], values, { stream }));
    return {
      rowStart: this.#own(host.tensor("i32", [rows], pages.firsts, { stream })),
      kvLen: upload(tokensOf(pages, pageSize)),
      pageIndices: upload(pages.slots),
    };
  }

  #chunkTables(parts: HybridTableParts, chunks: readonly RowPages[]): RowTable[][] {
    const { device, stream, rows, pageSize, ringChunks, chunkPages, ringIndices } = parts;
    if (chunks.length === 0) return [];
    const lengths = new Int32Array(chunks.length * rows);
    const starts = new Int32Array(chunks.length * ringChunks * rows);
    chunks.forEach((pages, chunk) => {
      lengths.set(tokensOf(pages, pageSize), chunk * rows);
      for (let place = 0; place < ringChunks; place++) {
        const shifted = pages.firsts.map((first) => first + place * chunkPages);
        starts.set(shifted, (chunk * ringChunks + place) * rows);
      }
    });
    const kvLen = this.#own(device.tensor("i32", [chunks.length, rows], lengths, { stream }));
    const rowStart = this.#own(device.tensor("i32", [chunks.length * ringChunks, rows], starts, { stream }));
    return chunks.map((_, chunk) => {
      const length = this.#own(kvLen.select(chunk));
      return Array.from({ length: ringChunks }, (_unused, place) => ({
        rowStart: this.#own(rowStart.select(chunk * ringChunks + place)),
        kvLen: length,
        pageIndices: ringIndices,
      }));
    });
  }
}
