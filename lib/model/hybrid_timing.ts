/** Times of single layers in a hybrid step, taken by stamps on the streams themselves and read when the step is over. */
import type { Stream } from "../stream.js";
import type { TransferStream } from "../transfer_stream.js";
import type { HybridShares, MeasuredRates } from "./hybrid_plan.js";

/** Layers that are timed, at most: each takes two stamps on every stream. */
const mostSampled = 8;
/** Steps whose stamps may be needed at once: one that is read, one ahead of it, and one whose first chunks are on their way. */
const stepsAtOnce = 3;
/** First stamp on the device's compute stream, which others stamp from 0 on. */
const deviceBase = 256 - 2 * mostSampled * stepsAtOnce;

export interface TimedStreams {
  device: Stream;
  host: Stream;
  transfers: TransferStream;
}

/** What one step measured. */
export interface HybridTimes extends MeasuredRates {
  /** Of all layers, as the timed ones tell. */
  cpuMicroseconds: number;
  copyMicroseconds: number;
}

export class HybridTiming {
  /** None is the last one: a layer's serial time ends in the next. */
  readonly layers: readonly number[];
  readonly #numLayers: number;

  constructor(numLayers: number) {
    this.#numLayers = numLayers;
    const count = Math.min(mostSampled, numLayers - 1);
    this.layers = Array.from({ length: count }, (_, i) => Math.floor((i * (numLayers - 1)) / count));
  }

  /** First stamps of a step. */
  stamps(step: number): { hostStamp: number; deviceStamp: number; copyStamp: number } {
    const shift = (step % stepsAtOnce) * 2 * mostSampled;
    return { hostStamp: shift, deviceStamp: deviceBase + shift, copyStamp: shift };
  }

  /** Once the step is over, and before the second one after it is enqueued. */
  read(step: number, streams: TimedStreams, shares: HybridShares, layerBytes: number): HybridTimes {
    const { hostStamp, deviceStamp, copyStamp } = this.stamps(step);
    const cpuUs = shares.cpu.slots.length > 0 ? this.#median(streams.host, hostStamp) : 0;
    const copyUs = shares.chunks.length > 0 ? this.#median(streams.transfers, copyStamp) : 0;
    const firstChunk = shares.chunks[0]?.slots.length ?? 0;
    const linkBytesPerUs = copyUs > 0 ? (firstChunk * layerBytes) / copyUs : undefined;
    return {
      cpuBytesPerUs: cpuUs > 0 ? (shares.cpu.slots.length * layerBytes) / cpuUs : undefined,
      linkBytesPerUs,
      serialUs: this.layers.length > 0 ? this.#median(streams.device, deviceStamp) : undefined,
      cpuMicroseconds: cpuUs * this.#numLayers,
      copyMicroseconds: linkBytesPerUs === undefined ? 0 : (shares.streamedPages * layerBytes * this.#numLayers) / linkBytesPerUs,
    };
  }

  #median(stream: Stream | TransferStream, first: number): number {
    const times = this.layers.map((_, i) => stream.elapsedMicroseconds(first + 2 * i, first + 2 * i + 1)).sort((a, b) => a - b);
    return times[Math.floor(times.length / 2)] ?? 0;
  }
}
