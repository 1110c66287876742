/** Pages and page tables in tensors of one device, changed in the order of one stream. */
import type { Device } from "../device.js";
import { dtypeBytes } from "../dtype.js";
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { type LayerGroup, identityFormat, layerOffsets } from "./page_format.js";
import type { PageStore } from "./page_store.js";

interface GroupTensors {
  /** [num_pages, elements_per_page] */
  pages: Tensor;
  /** Per layer of the group: [num_kv_heads, 2] i32 bytes. */
  offsets: Tensor[];
  /** [entries] i32; replaced when the table grows. */
  pageIndices: Tensor | undefined;
}

export class DevicePageStore implements PageStore {
  readonly #device: Device;
  readonly #stream: Stream;
  readonly #groups: GroupTensors[];

  /** @throws ERR_KVASIR_OUT_OF_MEMORY */
  constructor(device: Device, stream: Stream, groups: readonly LayerGroup[], pageSize: number, maxPages: number) {
    this.#device = device;
    this.#stream = stream;
    this.#groups = groups.map((group) => {
      const format = identityFormat(group, pageSize);
      return {
        pages: device.empty(format.dtype, [maxPages, format.pageBytes / dtypeBytes[format.dtype]]),
        offsets: group.layers.map((_, layer) => {
          const offsets = layerOffsets(format, layer);
          return device.tensor("i32", [format.numKvHeads, 2], offsets, { stream });
        }),
        pageIndices: undefined,
      };
    });
  }

  pages(group: number): Tensor {
    return this.#group(group).pages;
  }

  /** `pageOffsets` of a layer, by its place in the group. */
  offsets(group: number, layer: number): Tensor {
    return this.#group(group).offsets[layer] as Tensor;
  }

  pageIndices(group: number): Tensor {
    return this.#group(group).pageIndices as Tensor;
  }

  poolBytes(group: number): number {
    return this.pages(group).bytes;
  }

  tableBytes(): number {
    return this.#groups.reduce((sum, group) => sum + (group.pageIndices?.bytes ?? 0), 0);
  }

  copyPage(group: number, fromSlot: number, toSlot: number): void {
    const pages = this.pages(group);
    using from = pages.select(fromSlot);
    using to = pages.select(toSlot);
    to.copyFrom(from, { stream: this.#stream });
  }

  resizeTable(group: number, entries: number): void {
    const table = this.#group(group);
    const grown = this.#device.zeros("i32", [entries], { stream: this.#stream });
    table.pageIndices?.dispose();
    table.pageIndices = grown;
  }

  writeTable(group: number, start: number, slots: Int32Array): void {
    using target = this.pageIndices(group).slice(start, start + slots.length);
    // A failure here is a device failure, which the next wait on the stream reports.
    target.write(slots, { stream: this.#stream }).catch(() => undefined);
  }

  dispose(): void {
    for (const { pages, offsets, pageIndices } of this.#groups) {
      pages.dispose();
      for (const tensor of offsets) tensor.dispose();
      pageIndices?.dispose();
    }
  }

  #group(group: number): GroupTensors {
    return this.#groups[group] as GroupTensors;
  }
}
