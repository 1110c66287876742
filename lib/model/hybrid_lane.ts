/**
 * The lane on which pages of host memory come to the device for one layer's attention: chunks of pages, one layer of each, are copied into
 * a ring of staging buffers, ahead of the compute stream, and leave it once they were attended to. The order of copies is that of the
 * layers, step after step. Nothing waits here: events hold the streams back.
 */
import type { Device } from "../device.js";
import { dtypeBytes } from "../dtype.js";
import type { Event } from "../event.js";
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import type { TransferStream } from "../transfer_stream.js";
import type { RowPages } from "./hybrid_plan.js";

export interface HybridLaneOptions {
  device: Device;
  /** What attends to the chunks. */
  stream: Stream;
  /** [host_slots, elements_per_page] of a CPU device, pinned for a GPU. */
  hostPages: Tensor;
  numLayers: number;
  /** Most pages of a chunk. */
  chunkPages: number;
  /** Buffers of the ring. */
  ringChunks: number;
}

/** Copies that are timed: of chunk 0 of these layers, between stamps `first` and `first + 1` and so on. */
export interface CopyStamps {
  layers: readonly number[];
  first: number;
}

/** A chunk that is to come, and when it does. */
interface Coming {
  chunks: readonly RowPages[];
  layer: number;
  chunk: number;
  stamps: CopyStamps;
}

export class HybridLane {
  /** [ringChunks * chunkPages, elements_per_layer]; chunk c of the ring begins at slot c * chunkPages. */
  readonly pages: Tensor;
  readonly ringChunks: number;
  readonly transfers: TransferStream;
  readonly #options: HybridLaneOptions;
  readonly #layerBytes: number;
  /** [ringChunks] raised when a copy has arrived, and when its buffer may be overwritten. */
  readonly #arrived: Event[];
  readonly #free: Event[];
  #coming: Coming | undefined;
  /** Chunks whose copy, and whose attention, has been enqueued. */
  #queued = 0;
  #consumed = 0;

  constructor(options: HybridLaneOptions) {
    const { device, hostPages, numLayers, chunkPages, ringChunks } = options;
    this.#options = options;
    this.ringChunks = ringChunks;
    const elements = (hostPages.shape[1] as number) / numLayers;
    this.#layerBytes = elements * dtypeBytes[hostPages.dtype];
    this.pages = device.empty(hostPages.dtype, [ringChunks * chunkPages, elements]);
    this.transfers = device.createTransferStream();
    const events = (): Event[] => Array.from({ length: ringChunks }, () => device.createEvent());
    this.#arrived = events();
    this.#free = events();
  }

  /** Bytes that the copies of one page for one layer take. */
  get layerBytes(): number {
    return this.#layerBytes;
  }

  /** A step's chunks, for every layer in turn, are what comes next; as many copies as the ring has room for are enqueued at once. */
  begin(chunks: readonly RowPages[], stamps: CopyStamps): void {
    this.#coming = { chunks, layer: 0, chunk: 0, stamps };
    this.#fill();
  }

  /** Forgets what was enqueued and not taken: the next step attends to other pages. */
  drop(): void {
    this.#coming = undefined;
    this.#consumed = this.#queued;
  }

  /** Holds the compute stream until the next chunk is there. Returns which buffer of the ring it lies in. */
  take(): number {
    const place = this.#consumed % this.ringChunks;
    this.#options.stream.wait(this.#arrived[place] as Event);
    return place;
  }

  /** The compute stream needs the chunk of the last `take` no more. */
  release(): void {
    this.#options.stream.record(this.#free[this.#consumed % this.ringChunks] as Event);
    this.#consumed++;
    this.#fill();
  }

  /** What was enqueued goes on to its end. */
  dispose(): void {
    this.transfers.dispose();
    this.pages.dispose();
    for (const event of [...this.#arrived, ...this.#free]) event.dispose();
  }

  #fill(): void {
    while (this.#coming !== undefined && this.#queued < this.#consumed + this.ringChunks) {
      const { chunks, layer, chunk, stamps } = this.#coming;
      const pages = chunks[chunk];
      if (pages === undefined || layer === this.#options.numLayers) {
        this.#coming = undefined;
        return;
      }
      this.#copy(pages.slots, layer, chunk === 0 ? stamps.layers.indexOf(layer) : -1, stamps.first);
      const isLast = chunk + 1 === chunks.length;
      this.#coming = { chunks, stamps, layer: isLast ? layer + 1 : layer, chunk: isLast ? 0 : chunk + 1 };
    }
  }

  /** `sample`: the number of the stamps' pair, or -1. */
  #copy(fromSlots: Int32Array, layer: number, sample: number, firstStamp: number): void {
    const { hostPages, chunkPages } = this.#options;
    const place = this.#queued % this.ringChunks;
    const { transfers } = this;
    transfers.wait(this.#free[place] as Event);
    if (sample >= 0) transfers.stamp(firstStamp + 2 * sample);
    transfers.copyPages({
      from: hostPages,
      fromSlots,
      fromOffset: layer * this.#layerBytes,
      to: this.pages,
      toSlots: Int32Array.from(fromSlots, (_, i) => place * chunkPages + i),
      bytes: this.#layerBytes,
    });
    if (sample >= 0) transfers.stamp(firstStamp + 2 * sample + 1);
    transfers.record(this.#arrived[place] as Event);
    this.#queued++;
  }
}
