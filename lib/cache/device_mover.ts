/**
 * Moves of pages between tensors: the pool of a device and the host pool, over one transfer stream a direction. Every move has an event
 * edge both ways: it starts after what the compute stream was given before, and compute that needs its bytes is held by an event.
 */
import type { Device } from "../device.js";
import type { Event } from "../event.js";
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import type { Transfer, TransferStream } from "../transfer_stream.js";
import type { PageFormat } from "./page_format.js";
import type { Move, MoveOutcome, PageMover } from "./page_mover.js";

/** Bytes of a page that a band has at least, but for the first one, which nothing hides: below, copies are slow for their size. */
const leastBandBytes = 512 << 10;
/** From so many bytes of a page on the copy engines are as fast as kernels, and leave the multiprocessors to the work above the copy. */
const engineBytes = 128 << 10;

export interface DeviceMoverOptions {
  device: Device;
  /** What kernels run on that read and write the device pool. */
  stream: Stream;
  formats: readonly PageFormat[];
  /** [slots, elements_per_page] of each group, on the device and on a CPU device. */
  devicePages: readonly Tensor[];
  hostPages: readonly Tensor[];
  /** A move that takes longer counts as lost (its memory is used until it ends all the same). Default 30000. */
  deadlineMs?: number | undefined;
}

export class DeviceMover implements PageMover {
  readonly #options: DeviceMoverOptions;
  readonly #deadlineMs: number;
  readonly #out: TransferStream;
  readonly #in: TransferStream;
  /** Marks the point of the compute stream that the next move starts after. */
  readonly #edge: Event;

  constructor(options: DeviceMoverOptions) {
    this.#options = options;
    this.#deadlineMs = options.deadlineMs ?? 30_000;
    this.#out = options.device.createTransferStream();
    this.#in = options.device.createTransferStream();
    this.#edge = options.device.createEvent();
  }

  toHost(group: number, deviceSlots: Int32Array, hostSlots: Int32Array): Move {
    const { devicePages, hostPages, device } = this.#options;
    this.#follow(this.#out);
    const [from, to] = [devicePages[group] as Tensor, hostPages[group] as Tensor];
    const transfer = this.#out.copyPages({ from, fromSlots: deviceSlots, to, toSlots: hostSlots });
    const arrival = device.createEvent();
    this.#out.record(arrival);
    return new DeviceMove(this.#options.stream, [transfer], [arrival], [0], this.#deadlineMs);
  }

  toDevice(group: number, hostSlots: Int32Array, deviceSlots: Int32Array): Move {
    const { devicePages, hostPages, device, formats, stream } = this.#options;
    this.#follow(this.#in);
    const [from, to] = [hostPages[group] as Tensor, devicePages[group] as Tensor];
    const { pageBytes, numLayers } = formats[group] as PageFormat;
    const layerBytes = pageBytes / numLayers;
    const bands = bandStarts(numLayers, layerBytes);
    const transfers: Transfer[] = [];
    const arrivals: Event[] = [];
    bands.forEach((layer, band) => {
      const offset = layer * layerBytes;
      const bytes = ((bands[band + 1] ?? numLayers) - layer) * layerBytes;
      const path = bytes >= engineBytes ? ("batch" as const) : ("auto" as const);
      const pages = { from, fromSlots: hostSlots, to, toSlots: deviceSlots };
      transfers.push(this.#in.copyPages({ ...pages, fromOffset: offset, toOffset: offset, bytes, path }));
      const arrival = device.createEvent();
      this.#in.record(arrival);
      arrivals.push(arrival);
    });
    return new DeviceMove(stream, transfers, arrivals, bands, this.#deadlineMs);
  }

  async quiet(): Promise<void> {
    await this.#options.stream.finished();
  }

  /** What was enqueued goes on to its end. */
  dispose(): void {
    this.#out.dispose();
    this.#in.dispose();
    this.#edge.dispose();
  }

  #follow(transfers: TransferStream): void {
    this.#options.stream.record(this.#edge);
    transfers.wait(this.#edge);
  }
}

/** First layers of the bands: one layer, then as many as make a copy fast. */
function bandStarts(numLayers: number, layerBytes: number): number[] {
  const width = Math.max(1, Math.ceil(leastBandBytes / layerBytes));
  const starts = [0];
  const first = Math.min(width, Math.max(1, Math.ceil(engineBytes / layerBytes)));
  for (let layer = first; layer < numLayers; layer += width) starts.push(layer);
  return starts;
}

class DeviceMove implements Move {
  readonly bytes: number;
  readonly done: Promise<MoveOutcome | "late">;
  readonly settled: Promise<MoveOutcome>;
  readonly #stream: Stream;
  readonly #transfers: readonly Transfer[];
  readonly #arrivals: readonly Event[];
  /** First layer of each arrival's band. */
  readonly #bands: readonly number[];
  #isOver = false;

  constructor(
    stream: Stream,
    transfers: readonly Transfer[],
    arrivals: readonly Event[],
    bands: readonly number[],
    deadlineMs: number,
  ) {
    this.#stream = stream;
    this.#transfers = transfers;
    this.#arrivals = arrivals;
    this.#bands = bands;
    this.bytes = transfers.reduce((sum, { bytes }) => sum + bytes, 0);
    this.settled = this.#settle();
    this.done = this.#within(deadlineMs);
  }

  hold(layer?: number): void {
    if (this.#isOver) return;
    let band = this.#bands.length - 1;
    while (layer !== undefined && band > 0 && (this.#bands[band] as number) > layer) band--;
    this.#stream.wait(this.#arrivals[band] as Event);
  }

  cancel(): boolean {
    // Bands go in order, so that the first refusal tells of those before it; a move of which a part was done is not done.
    return this.#transfers.map((transfer) => transfer.cancel()).some((isCancelled) => isCancelled);
  }

  async #settle(): Promise<MoveOutcome> {
    const outcomes = await Promise.all(this.#transfers.map(({ done }) => done));
    this.#isOver = true;
    for (const arrival of this.#arrivals) arrival.dispose();
    if (outcomes.includes("failed")) return "failed";
    return outcomes.includes("cancelled") ? "cancelled" : "done";
  }

  /** Past its deadline, what has not begun does not happen any more. */
  #within(deadlineMs: number): Promise<MoveOutcome | "late"> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.cancel();
        resolve("late");
      }, deadlineMs);
      this.settled.then((outcome) => {
        clearTimeout(timer);
        resolve(outcome);
      });
    });
  }
}
