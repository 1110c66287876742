/**
 * One layer's attention in hybrid form. The device attends to the pages that it holds and to those that come through the ring, the CPU to
 * its share of the host pool meanwhile; each leaves (out, lse) in f32, and `merge` joins them. Streams are ordered by events alone:
 *
 *   device:  q to host · record asked · own pages · chunk by chunk as they arrive · wait answered · CPU's part in · merge
 *   CPU:                 wait asked   · its pages · record answered
 *   link:    chunks of this layer and the next ones, as the ring has room
 */
import type { DevicePageStore } from "../cache/device_store.js";
import { layerOffsets, type PageFormat } from "../cache/page_format.js";
import type { Device } from "../device.js";
import type { Event } from "../event.js";
import { allocateHostTensor } from "../host_tensor.js";
import { attention } from "../ops/attention.js";
import { merge } from "../ops/merge.js";
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import type { HybridLane } from "./hybrid_lane.js";
import type { RowTable, ShareTables } from "./hybrid_tables.js";

export interface HybridAttentionParts {
  device: Device;
  stream: Stream;
  host: Device;
  store: DevicePageStore;
  format: PageFormat;
  /** [host_slots, elements_per_page] */
  hostPages: Tensor;
  lane: HybridLane;
  rows: number;
  numQoHeads: number;
  /** Layers whose times are taken: pairs of stamps, on the host's stream from `hostStamp` on, on the device's from `deviceStamp`. */
  sampledLayers: readonly number[];
}

/** Of a chunk: wait, attention's kernels, release. Of a layer beside them: question and answer, own pages, stamps, merge. */
const chunkOps = 4;
const ownOps = 16;

/** What changes from step to step. */
export interface HybridStep {
  own: RowTable;
  tables: ShareTables;
  hostStamp: number;
  deviceStamp: number;
}

/** Memory that both sides reach. */
interface Meeting {
  /** [rows, heads, head_dim] */
  q: Tensor;
  /** f32 */
  out: Tensor;
  /** f32 [rows, heads] */
  lse: Tensor;
}

export class HybridAttention {
  readonly hostStream: Stream;
  readonly #parts: HybridAttentionParts;
  readonly #meeting: Meeting;
  /** Of each layer, on the host. */
  readonly #hostOffsets: readonly Tensor[];
  /** A dense copy of q, for batches. */
  readonly #q: Tensor;
  readonly #asked: Event;
  readonly #answered: Event;
  /** f32 [parts, rows, heads, head_dim] and [parts, rows, heads], with the views that are asked for again and again. */
  #partsOut: Tensor | undefined;
  #partsLse: Tensor | undefined;
  #views: { out: Tensor; lse: Tensor }[] = [];
  #step: HybridStep | undefined;

  private constructor(parts: HybridAttentionParts, meeting: Meeting) {
    this.#parts = parts;
    this.#meeting = meeting;
    const { device, host, format } = parts;
    this.hostStream = host.createStream();
    this.#hostOffsets = Array.from({ length: format.numLayers }, (_, layer) =>
      host.tensor("i32", [format.numKvHeads, 2], layerOffsets(format, layer), { stream: this.hostStream }),
    );
    this.#q = device.empty(format.dtype, meeting.q.shape);
    this.#asked = device.createEvent();
    this.#answered = host.createEvent();
  }

  /** @throws (rejection) ERR_KVASIR_OUT_OF_MEMORY */
  static async create(parts: HybridAttentionParts): Promise<HybridAttention> {
    const { device, host, format, rows, numQoHeads } = parts;
    const pinned = device.backend === "cpu" ? {} : { pinnedFor: device };
    const shape = [rows, numQoHeads, format.headDim];
    const owned: Tensor[] = [];
    try {
      owned.push(await allocateHostTensor(host, format.dtype, shape, pinned));
      owned.push(await allocateHostTensor(host, "f32", shape, pinned));
      owned.push(await allocateHostTensor(host, "f32", [rows, numQoHeads], pinned));
    } catch (error) {
      for (const tensor of owned) tensor.dispose();
      throw error;
    }
    const [q, out, lse] = owned as [Tensor, Tensor, Tensor];
    return new HybridAttention(parts, { q, out, lse });
  }

  begin(step: HybridStep): void {
    this.#step = step;
    this.#makeRoom(1 + (step.tables.cpu === undefined ? 0 : 1) + step.tables.chunks.length);
  }

  /** Operations of a layer of this step on the device's stream; no fewer than there are. */
  get opsPerLayer(): number {
    const { tables } = this.#step as HybridStep;
    return ownOps + chunkOps * tables.chunks.length;
  }

  /** Enqueues a layer's attention of `q` [rows, heads, head_dim] to all pages, into `out`. */
  attend(layer: number, q: Tensor, out: Tensor): void {
    const { stream, store, lane, format } = this.#parts;
    const { own, tables, deviceStamp } = this.#step as HybridStep;
    const { pageSize } = format;
    let part = 0;
    const onDevice = (pages: Tensor, pageOffsets: Tensor, table: RowTable): void => {
      const view = this.#views[part++] as { out: Tensor; lse: Tensor };
      attention(stream, { q, ...view, pages, pageOffsets, pageSize, ...table });
    };
    const sample = this.#parts.sampledLayers.indexOf(layer);
    const before = this.#parts.sampledLayers.indexOf(layer - 1);
    if (before >= 0) stream.stamp(deviceStamp + 2 * before + 1);
    if (tables.cpu !== undefined) this.#ask(layer, q, sample);
    onDevice(store.pages(0), store.offsets(0, layer), own);
    for (const places of tables.chunks) {
      const place = lane.take();
      onDevice(lane.pages, store.offsets(0, 0), places[place] as RowTable);
      lane.release();
    }
    if (tables.cpu !== undefined) this.#hear(part++);
    if (sample >= 0) stream.stamp(deviceStamp + 2 * sample);
    using parts = (this.#partsOut as Tensor).slice(0, part);
    using partsLse = (this.#partsLse as Tensor).slice(0, part);
    merge(stream, { parts, partsLse, out });
  }

  /** What was enqueued runs to its end. */
  dispose(): void {
    this.#freeParts();
    for (const tensor of [...Object.values(this.#meeting), ...this.#hostOffsets, this.#q]) (tensor as Tensor).dispose();
    this.#asked.dispose();
    this.#answered.dispose();
    this.hostStream.dispose();
  }

  /** Sends the query to the CPU, which answers while the device goes on. */
  #ask(layer: number, q: Tensor, sample: number): void {
    const { stream, hostPages, format } = this.#parts;
    const { tables, hostStamp } = this.#step as HybridStep;
    const { hostStream } = this;
    if (!q.contiguous) this.#q.copyFrom(q, { stream });
    this.#meeting.q.copyFrom(q.contiguous ? q : this.#q, { stream });
    stream.record(this.#asked);
    hostStream.wait(this.#asked);
    if (sample >= 0) hostStream.stamp(hostStamp + 2 * sample);
    attention(hostStream, {
      ...this.#meeting,
      pages: hostPages,
      pageOffsets: this.#hostOffsets[layer],
      pageSize: format.pageSize,
      ...(tables.cpu as RowTable),
    });
    if (sample >= 0) hostStream.stamp(hostStamp + 2 * sample + 1);
    hostStream.record(this.#answered);
  }

  #hear(part: number): void {
    const { stream } = this.#parts;
    const view = this.#views[part] as { out: Tensor; lse: Tensor };
    stream.wait(this.#answered);
    view.out.copyFrom(this.#meeting.out, { stream });
    view.lse.copyFrom(this.#meeting.lse, { stream });
  }

  #makeRoom(count: number): void {
    if (this.#views.length >= count) return;
    this.#freeParts();
    const { device, rows, numQoHeads, format } = this.#parts;
    this.#partsOut = device.empty("f32", [count, rows, numQoHeads, format.headDim]);
    this.#partsLse = device.empty("f32", [count, rows, numQoHeads]);
    const [partsOut, partsLse] = [this.#partsOut, this.#partsLse];
    this.#views = Array.from({ length: count }, (_, i) => ({ out: partsOut.select(i), lse: partsLse.select(i) }));
  }

  #freeParts(): void {
    for (const { out, lse } of this.#views) {
      out.dispose();
      lse.dispose();
    }
    this.#views = [];
    this.#partsOut?.dispose();
    this.#partsLse?.dispose();
  }
}
