/** What the device is told before each step of a hybrid decode: where the new token goes, and which pages of its own a row has. */
import type { Device } from "../device.js";
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import type { HybridContext } from "./hybrid_context.js";
import type { RowTable } from "./hybrid_tables.js";

/** Entries of a row's run that are kept free for pages to come. */
const slackEntries = 16;

export class HybridLayout {
  /** [rows] i32 */
  readonly positions: Tensor;
  readonly slotMapping: Tensor;
  readonly #device: Device;
  readonly #stream: Stream;
  readonly #rows: number;
  readonly #pageSize: number;
  readonly #kvLen: Tensor;
  readonly #rowStart: Tensor;
  #pageIndices: Tensor | undefined;
  #capacity = 0;
  /** What the device knows, by row. */
  #known: Int32Array[] = [];

  constructor(device: Device, stream: Stream, rows: number, pageSize: number) {
    this.#device = device;
    this.#stream = stream;
    this.#rows = rows;
    this.#pageSize = pageSize;
    const integers = (): Tensor => device.zeros("i32", [rows], { stream });
    this.positions = integers();
    this.slotMapping = integers();
    this.#kvLen = integers();
    this.#rowStart = integers();
  }

  /** For contexts that have room for one more token each; `deviceSlots` by context. Returns the table of the device's own pages. */
  update(contexts: readonly HybridContext[], deviceSlots: readonly Int32Array[]): RowTable {
    const rows = this.#rows;
    const positions = new Int32Array(rows);
    const slotMapping = new Int32Array(rows).fill(-1);
    const kvLen = new Int32Array(rows);
    contexts.forEach(({ length }, row) => {
      const slots = deviceSlots[row] as Int32Array;
      const offset = length % this.#pageSize;
      positions[row] = length;
      slotMapping[row] = (slots[slots.length - 1] as number) * this.#pageSize + offset;
      kvLen[row] = (slots.length - 1) * this.#pageSize + offset + 1;
    });
    this.#write(this.positions, positions);
    this.#write(this.slotMapping, slotMapping);
    this.#write(this.#kvLen, kvLen);
    if (this.#hasChanged(deviceSlots)) this.#writeTable(deviceSlots);
    return { rowStart: this.#rowStart, kvLen: this.#kvLen, pageIndices: this.#pageIndices as Tensor };
  }

  dispose(): void {
    for (const tensor of [this.positions, this.slotMapping, this.#kvLen, this.#rowStart]) tensor.dispose();
    this.#pageIndices?.dispose();
  }

  #hasChanged(deviceSlots: readonly Int32Array[]): boolean {
    return deviceSlots.some((slots, row) => {
      const known = this.#known[row];
      return known === undefined || known.length !== slots.length || slots.some((slot, i) => slot !== known[i]);
    });
  }

  #writeTable(deviceSlots: readonly Int32Array[]): void {
    const longest = Math.max(...deviceSlots.map(({ length }) => length));
    if (longest > this.#capacity) {
      this.#capacity = longest + slackEntries;
      this.#pageIndices?.dispose();
      this.#pageIndices = this.#device.empty("i32", [this.#rows * this.#capacity]);
      this.#write(
        this.#rowStart,
        Int32Array.from({ length: this.#rows }, (_, row) => row * this.#capacity),
      );
    }
    const entries = new Int32Array(this.#rows * this.#capacity);
    deviceSlots.forEach((slots, row) => {
      entries.set(slots, row * this.#capacity);
    });
    this.#write(this.#pageIndices as Tensor, entries);
    this.#known = [...deviceSlots];
  }

  /** In stream order. A failure here is a device failure, which the next read on the stream reports. */
  #write(target: Tensor, values: Int32Array): void {
    target.write(values, { stream: this.#stream }).catch(() => undefined);
  }
}
