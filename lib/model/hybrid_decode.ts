/**
 * Decoding sequences whose keys and values do not fit on the device: the device attends to the pages that it holds, the CPU to a share of
 * those in host memory where they lie, and the rest is streamed to the device, layer by layer, ahead of compute. The shares follow the
 * rates that earlier steps measured. New tokens go to pages on the device.
 */
import { KvasirError } from "../errors.js";
import type { Event } from "../event.js";
import type { Tensor } from "../tensor.js";
import { Backlog } from "./backlog.js";
import type { DecodeProgram } from "./decode_program.js";
import { HybridLayout } from "./hybrid_layout.js";
import { isSamePlaces } from "./hybrid_context.js";
import { disposeHybrid, type HybridParts } from "./hybrid_open.js";
import { cpuPagesFor, type HybridRates, type HybridShares, RateMeter, sharePages } from "./hybrid_plan.js";
import { type HybridTableParts, ShareTables } from "./hybrid_tables.js";

export interface HybridStats {
  steps: number;
  /** Pages of the latest step by who attended to them. */
  devicePages: number;
  cpuPages: number;
  streamedPages: number;
  /** Of the host pages. */
  shares: { cpu: number; streamed: number };
  /** That came to the device in all steps. */
  bytesStreamed: number;
  /** That the CPU attended, and that copies took, in the latest step whose tokens were read; all layers, as a sample of them tells. */
  cpuMicroseconds: number;
  copyMicroseconds: number;
  /** What the next shares follow from. */
  rates: Readonly<HybridRates>;
}

/** Of a layer, and of what lies before and behind the layers, beside attention to pages; no fewer than there are. */
const layerOps = 16;
const otherOps = 32;

/** Made by `model.decodeHybrid`; used as a `DecodeBatch` is. It has a stream of its own, ordered after and before the model's by events. */
export class HybridDecode implements Disposable {
  readonly #parts: HybridParts;
  /** What comes here from the model's stream, and goes there. */
  readonly #begun: Event;
  readonly #ended: Event;
  readonly #backlog: Backlog;
  readonly #program: DecodeProgram;
  readonly #layout: HybridLayout;
  readonly #tableParts: HybridTableParts;
  readonly #meter: RateMeter = new RateMeter();
  /** Shares of the next step, whose first chunks are on their way. */
  #tables: ShareTables | undefined;
  /** What they are shares of, by context. */
  #hostSlots: readonly Int32Array[] = [];
  /** Shares of the latest two steps, the last one's first. */
  #latest: readonly HybridShares[] = [];
  #steps = 0;
  #devicePages = 0;
  #bytesStreamed = 0;
  #times = { cpuMicroseconds: 0, copyMicroseconds: 0 };
  /** The latest step is enqueued, or has failed. */
  #turn: Promise<unknown> = Promise.resolve();
  #disposed = false;

  /** @internal */
  constructor(parts: HybridParts) {
    const { transformer, stream, program, hostPages, lane, attention, chunkPages, sampling } = parts;
    const { device, cache } = transformer.parts;
    const { pageSize } = cache;
    const { rows } = program;
    this.#parts = parts;
    this.#begun = device.createEvent();
    this.#ended = device.createEvent();
    this.#backlog = new Backlog(stream);
    this.#program = program;
    this.#layout = new HybridLayout(device, stream, rows, pageSize);
    const slots = Int32Array.from({ length: lane.ringChunks * chunkPages }, (_, slot) => slot);
    this.#tableParts = {
      device,
      stream,
      host: hostPages.device,
      hostStream: attention.hostStream,
      rows,
      pageSize,
      chunkPages,
      ringChunks: lane.ringChunks,
      ringIndices: device.tensor("i32", [slots.length], slots, { stream }),
    };
    program.upload(program.step, new Int32Array(rows));
    if (!program.greedy) program.setSampling(sampling);
  }

  /** Chooses the first tokens from logits `[sequences, vocab]`; before the first step. */
  start(logits: Tensor): Promise<Int32Array> {
    this.#check();
    this.#begin();
    this.#program.start(logits);
    return this.#read(undefined);
  }

  /** Continues from given tokens instead; when the tokens of all steps have come. */
  startFrom(tokens: readonly number[]): void {
    this.#check();
    const ids = new Int32Array(this.#program.rows);
    ids.set(tokens);
    this.#program.upload(this.#program.ids, ids);
  }

  /**
   * Writes each sequence's latest token into the cache and chooses its next one. Callers may run a step ahead of what they read: steps are
   * enqueued one after another, each as far as the stream has room at once and the rest as it gets on.
   * @throws (rejection) ERR_KVASIR_OUT_OF_PAGES, and then nothing has changed; ERR_KVASIR_DISPOSED, ERR_KVASIR_DEVICE_LOST
   */
  async step(): Promise<Int32Array> {
    const turn = this.#turn.then(() => this.#enqueue());
    this.#turn = turn.catch(() => this.#forget());
    const { tokens } = await turn;
    return tokens;
  }

  /** Logits `[sequences, vocab]` f32 of the latest step, once its tokens have come and until the next one. */
  get logits(): Tensor {
    return this.#program.logits;
  }

  get stats(): HybridStats {
    const [shares] = this.#latest;
    const [cpuPages, streamedPages] = [shares?.cpu.slots.length ?? 0, shares?.streamedPages ?? 0];
    const hostPages = Math.max(1, cpuPages + streamedPages);
    return {
      steps: this.#steps,
      devicePages: this.#devicePages,
      cpuPages,
      streamedPages,
      shares: { cpu: cpuPages / hostPages, streamed: streamedPages / hostPages },
      bytesStreamed: this.#bytesStreamed,
      ...this.#times,
      rates: this.#meter.rates,
    };
  }

  /**
   * Frees what the decode took; enqueued work runs to its end, a step that is not wholly enqueued is refused, and sequences and host pages
   * stay the caller's. Sequences that were suspended before are suspended again.
   */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    try {
      this.#end(); // whoever gets the pages next comes after what still writes to them
    } catch {
      // A device that is lost, or was disposed before, does nothing any more.
    }
    for (const context of this.#parts.contexts) context[Symbol.dispose]();
    this.#layout.dispose();
    this.#tables?.dispose();
    this.#tableParts.ringIndices.dispose();
    this.#begun.dispose();
    this.#ended.dispose();
    disposeHybrid(this.#parts);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #check(): void {
    if (this.#disposed) throw new KvasirError("ERR_KVASIR_DISPOSED", "Hybrid decode was disposed; make another");
  }

  /** That nothing has happened since a wait on which the rest of a step depends. */
  #checkAll(): void {
    this.#check();
    for (const context of this.#parts.contexts) context.check();
  }

  /**
   * One step, by one caller at a time. Its tokens' read is enqueued with it, before the next step overwrites them. Whenever others
   * get their turn, the model's stream comes after what was enqueued here: they may move and free pages as if nothing were under way.
   */
  async #enqueue(): Promise<{ tokens: Promise<Int32Array> }> {
    this.#checkAll();
    const { contexts, transformer, attention, timing } = this.#parts;
    const { cache } = transformer.parts;
    const rows = contexts.map(({ row }) => row);
    cache.reserve(
      rows,
      rows.map(() => 1),
      true,
    );
    this.#begin();
    const tables = this.#tablesOfNow();
    this.#countDraws();
    const deviceSlots = contexts.map((context) => context.deviceSlots());
    const own = this.#layout.update(contexts, deviceSlots);
    const { positions, slotMapping } = this.#layout;
    attention.begin({ own, tables, ...timing.stamps(this.#steps) });
    const ops = layerOps + attention.opsPerLayer;
    transformer.prepare(this.#parts.stream, this.#program.rows, this.#program.rows);
    this.#backlog.add(otherOps);
    for (const _layer of this.#program.layers({
      ids: this.#program.ids,
      positions,
      groups: [{ slotMapping, rowStart: own.rowStart, kvLen: own.kvLen }],
      attend: (layer, q, out) => attention.attend(layer, q, out),
    })) {
      while (this.#backlog.isFull(ops)) {
        this.#end();
        await this.#backlog.shrink();
        this.#checkAll();
      }
      this.#backlog.add(ops);
    }
    for (const row of rows) cache.commit(row, 1);
    this.#count(tables.shares, deviceSlots);
    const tokens = this.#read(this.#steps - 1);
    tokens.catch(() => undefined); // `step` tells
    this.#end();
    this.#share(contexts.map((context) => context.hostSlots()));
    return { tokens };
  }

  /** After a step that failed half-way: its chunks are no longer where the next one would look for them. */
  #forget(): void {
    if (this.#disposed) return;
    this.#tables?.dispose();
    this.#tables = undefined;
  }

  /** What comes here starts after what the model's stream has been given. */
  #begin(): void {
    const { modelStream, stream } = this.#parts;
    modelStream.record(this.#begun);
    stream.wait(this.#begun);
  }

  /** And what comes there, after what was enqueued here. */
  #end(): void {
    const { modelStream, stream } = this.#parts;
    stream.record(this.#ended);
    modelStream.wait(this.#ended);
  }

  /** The shares that were prepared, or others where pages have moved since. */
  #tablesOfNow(): ShareTables {
    const hostSlots = this.#parts.contexts.map((context) => context.hostSlots());
    if (this.#tables !== undefined && isSamePlaces(hostSlots, this.#hostSlots)) return this.#tables;
    this.#parts.lane.drop();
    return this.#share(hostSlots);
  }

  /** Decides on the next step's shares and lets their first chunks come. */
  #share(hostSlots: readonly Int32Array[]): ShareTables {
    const { lane, cpuShare, chunkPages, timing } = this.#parts;
    const pages = hostSlots.reduce((sum, { length }) => sum + length, 0);
    const wanted = cpuShare === undefined ? cpuPagesFor(pages, lane.layerBytes, this.#meter.rates) : Math.round(cpuShare * pages);
    let tables = this.#tables;
    // A change costs tables, and is worth it from a few pages on.
    const isFar = tables === undefined || Math.abs(wanted - tables.shares.cpu.slots.length) > pages / 64;
    if (tables === undefined || isFar || !isSamePlaces(hostSlots, this.#hostSlots)) {
      tables?.dispose();
      tables = new ShareTables(this.#tableParts, sharePages(hostSlots, this.#program.rows, wanted, chunkPages));
      this.#tables = tables;
      this.#hostSlots = hostSlots;
    }
    const { chunks } = tables.shares;
    if (chunks.length > 0) lane.begin(chunks, { layers: timing.layers, first: timing.stamps(this.#steps).copyStamp });
    return tables;
  }

  /** Draws are numbered from the first token's, 0. */
  #countDraws(): void {
    const { rows, greedy, step } = this.#program;
    if (!greedy) this.#program.upload(step, new Int32Array(rows).fill(this.#steps + 1));
  }

  #count(shares: HybridShares, deviceSlots: readonly Int32Array[]): void {
    const { lane, transformer } = this.#parts;
    this.#latest = [shares, ...this.#latest.slice(0, 1)];
    this.#steps++;
    this.#devicePages = deviceSlots.reduce((sum, { length }) => sum + length, 0);
    this.#bytesStreamed += shares.streamedPages * lane.layerBytes * transformer.parts.config.numLayers;
  }

  async #read(step: number | undefined): Promise<Int32Array> {
    const tokens = (await this.#program.ids.read({ stream: this.#parts.stream })) as Int32Array;
    if (step !== undefined && !this.#disposed) this.#measure(step);
    return tokens.subarray(0, this.#parts.contexts.length);
  }

  /** The step is over; where two more were enqueued since, its stamps are theirs. */
  #measure(step: number): void {
    const shares = this.#latest[this.#steps - 1 - step];
    if (shares === undefined) return;
    const { stream, lane, attention, timing } = this.#parts;
    const streams = { device: stream, host: attention.hostStream, transfers: lane.transfers };
    const { cpuMicroseconds, copyMicroseconds, ...rates } = timing.read(step, streams, shares, lane.layerBytes);
    this.#times = { cpuMicroseconds, copyMicroseconds };
    this.#meter.add(rates);
  }
}
