/**
 * Contents of real pages that can be written and checked at memory speed: every layer of a page is one of a few random patterns, chosen
 * by page and layer, so that no two pages are alike and no layer of one passes for another's. They are copied in on the device, and checked
 * by the exclusive or of each layer's words, which the device computes.
 */
import { randomFillSync } from "node:crypto";
import { type Device, dtypeBytes, probeRead, type Stream, type Tensor } from "../../lib/index.js";
import type { PageFormat } from "../../lib/cache/page_format.js";

/** Prime, so that steps through the patterns that differ by layer meet each other seldom. */
const numPatterns = 31;

/** Views of the layers of a tensor's pages, made once. */
export class LayerViews {
  readonly device: Device;
  readonly #views: Tensor[];
  readonly #numLayers: number;

  /** @param pages [slots, elements_per_page] */
  constructor(pages: Tensor, { numLayers }: PageFormat) {
    const [slots, elements] = pages.shape as [number, number];
    const layer = elements / numLayers;
    this.device = pages.device;
    this.#numLayers = numLayers;
    this.#views = Array.from({ length: slots * numLayers }, (_, i) => pages.view({ offset: i * layer, shape: [layer] }));
  }

  of(slot: number, layer: number): Tensor {
    return this.#views[slot * this.#numLayers + layer] as Tensor;
  }

  dispose(): void {
    for (const view of this.#views) view.dispose();
  }
}

export class PagePatterns {
  readonly format: PageFormat;
  readonly #patterns: Tensor;
  readonly #views: LayerViews;
  /** Exclusive or of each layer of each pattern. */
  readonly #folded: Int32Array;

  constructor(device: Device, format: PageFormat) {
    this.format = format;
    const elements = format.pageBytes / dtypeBytes[format.dtype];
    const bits = randomFillSync(new Uint16Array(numPatterns * elements));
    const words = new Int32Array(bits.buffer);
    const perLayer = format.pageBytes / 4 / format.numLayers;
    this.#folded = Int32Array.from({ length: numPatterns * format.numLayers }, (_, i) => {
      let word = 0;
      for (let at = i * perLayer; at < (i + 1) * perLayer; at++) word ^= words[at] as number;
      return word;
    });
    this.#patterns = device.tensor(format.dtype, [numPatterns, elements], bits);
    this.#views = new LayerViews(this.#patterns, format);
  }

  /** Writes page `page`, a number of the caller's, into a slot, in the stream's order. */
  write(stream: Stream, target: LayerViews, slot: number, page: number): void {
    for (let layer = 0; layer < this.format.numLayers; layer++)
      target.of(slot, layer).copyFrom(this.#views.of(patternOf(page, layer), layer), { stream });
  }

  /** How many layers of the slots are not those of the pages, as the stream finds them when it gets there. */
  async wrongLayers(stream: Stream, source: LayerViews, slots: readonly number[], pages: readonly number[]): Promise<number> {
    const { numLayers } = this.format;
    using folded = stream.device.empty("i32", [Math.max(1, slots.length * numLayers)]);
    slots.forEach((slot, i) => {
      for (let layer = 0; layer < numLayers; layer++) {
        using out = folded.view({ offset: i * numLayers + layer, shape: [1] });
        probeRead(stream, { x: source.of(slot, layer), out });
      }
    });
    const found = (await folded.read({ stream })) as Int32Array;
    let wrong = 0;
    pages.forEach((page, i) => {
      for (let layer = 0; layer < numLayers; layer++)
        if (found[i * numLayers + layer] !== this.#folded[patternOf(page, layer) * numLayers + layer]) wrong++;
    });
    return wrong;
  }

  dispose(): void {
    this.#views.dispose();
    this.#patterns.dispose();
  }
}

const patternOf = (page: number, layer: number): number =>
  (page * (layer + 1) + Math.floor(page / numPatterns) + layer) % numPatterns;
