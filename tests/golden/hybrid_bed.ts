/** What tests of hybrid decode share: a model, a host pool, and sequences whose pages lie in both. */
import {
  allocateHostTensor,
  type Device,
  type HybridDecode,
  type HybridSequence,
  loadModel,
  type Model,
  openDevice,
  type Sequence,
  type Tensor,
} from "../../lib/index.js";
import { random } from "../attention_cases.js";
import { runSeed } from "../attention_check.js";
import { golden, modelFolder } from "./golden.js";

export const pageSize = 16;
export const hostSlots = 96;

export class HybridBed {
  readonly draw: () => number = random(runSeed);

  private constructor(
    readonly device: Device,
    readonly host: Device,
    readonly model: Model,
    /** [hostSlots, elements_per_page] */
    readonly hostPages: Tensor,
    readonly ids: number[],
  ) {}

  static async open(device: Device): Promise<HybridBed> {
    const host = openDevice("cpu", { threads: 2 });
    const model = await loadModel(device, modelFolder, { dtype: "f32", pageSize, cacheTokens: 4096, chunkTokens: 256 });
    const pinned = device.backend === "cuda" ? { pinnedFor: device } : {};
    const shape = [hostSlots, model.store.pages(0).shape[1] as number];
    const hostPages = await allocateHostTensor(host, "f32", shape, pinned);
    return new HybridBed(device, host, model, hostPages, [...(await golden("ids_1024")).ints]);
  }

  dispose(): void {
    this.model.dispose();
    this.hostPages.dispose();
    this.host.dispose();
  }

  /** Prefilled sequences, and their logits after the last token. */
  async prefilled(lengths: readonly number[]): Promise<{ sequences: Sequence[]; logits: Tensor }> {
    const sequences = lengths.map(() => this.model.createSequence());
    const items = sequences.map((sequence, i) => ({ sequence, tokens: this.ids.slice(7 * i, 7 * i + (lengths[i] as number)) }));
    return { sequences, logits: await this.model.prefill(items) };
  }

  /**
   * The same tokens with `pages` random full pages of each sequence in the host pool, in any slots and any order; everything else of the
   * pool is NaN, and so are the pages of the new sequences before what belongs there is copied in.
   */
  async spread(sequences: readonly Sequence[], pages: readonly number[]): Promise<HybridSequence[]> {
    const { model, host, hostPages } = this;
    const table = model.cache.groups[0]?.table;
    const devicePages = model.store.pages(0);
    hostPages.fill(0xff);
    await host.stream.finished();
    const free = [...this.#shuffled(hostSlots)];
    const result = sequences.map((source, i) => {
      const full = Math.floor(source.length / pageSize);
      const gone = new Set(this.#shuffled(full).subarray(0, pages[i]));
      const entries = Array.from({ length: Math.ceil(source.length / pageSize) }, (_, entry) => entry);
      const copy = (to: Tensor, toSlot: number, entry: number): void => {
        using from = devicePages.select(table?.slot(source.row, entry) as number);
        using target = to.select(toSlot);
        target.copyFrom(from, { stream: model.stream });
      };
      const slots = Int32Array.from(
        this.#shuffled(full).filter((entry) => gone.has(entry)),
        (entry) => {
          const slot = free.pop() as number;
          copy(hostPages, slot, entry);
          return slot;
        },
      );
      const sequence = model.createSequence();
      const length = source.length - gone.size * pageSize;
      sequence.reserve(length);
      sequence.commit(length);
      const kept = entries.filter((entry) => !gone.has(entry));
      kept.forEach((entry, place) => {
        const slot = table?.slot(sequence.row, place) as number;
        using target = devicePages.select(slot);
        target.fill(0xff, { stream: model.stream });
        copy(devicePages, slot, entry);
      });
      return { sequence, hostSlots: slots };
    });
    await model.stream.finished();
    return result;
  }

  #shuffled(count: number): Int32Array {
    const order = Int32Array.from({ length: count }, (_, i) => i);
    for (let i = count - 1; i > 0; i--) {
      const j = Math.floor(this.draw() * (i + 1));
      [order[i], order[j]] = [order[j] as number, order[i] as number];
    }
    return order;
  }
}

export interface Decoded {
  tokens: number[][];
  logits: Float32Array;
}

/** `count` steps, the device one ahead of what is read. */
export async function decoded(
  batch: Pick<HybridDecode, "start" | "step" | "logits">,
  logits: Tensor,
  count: number,
): Promise<Decoded> {
  const tokens = [[...(await batch.start(logits))]];
  let coming = batch.step();
  for (let i = 1; i < count; i++) {
    const next = batch.step();
    tokens.push([...(await coming)]);
    coming = next;
  }
  tokens.push([...(await coming)]);
  return {
    tokens,
    logits: (await batch.logits.readFloats()).subarray(0, (batch.logits.shape[1] as number) * (tokens[0]?.length ?? 0)),
  };
}
