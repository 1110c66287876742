/** A decode batch on the device: queries, several layers of KV (paged in shuffled order, or contiguous), programs that read another
 * layer with every node as a model's step does, so that no cache helps, and the float64 check of what they wrote. */
import { type AttentionArgs, type Device, type Program, type Tensor, attention, createPageTable } from "../../lib/index.js";
import { type Pattern, bytesOf, shuffled } from "../data.js";
import { attendRow, maxAbsError } from "../oracle.js";
import { type DecodeCell, kvBytes, sumOf } from "./attention_decode_cells.js";

/** How often a program reads a batch, and from how many layers. */
export interface Rotation {
  layers: number;
  nodes: number;
}

/** From here on a launch is so long that few nodes hide what launching costs. */
const LARGE_BYTES = 2 * 2 ** 30;

/** Layers of `rotateBytes` together, 32 at most. */
export function rotationOf(cell: DecodeCell, backend: Device["backend"], rotateBytes: number): Rotation {
  const layers = Math.max(1, Math.min(32, Math.ceil(rotateBytes / kvBytes(cell))));
  if (backend === "cpu") return { layers, nodes: layers };
  return { layers, nodes: kvBytes(cell) < LARGE_BYTES ? 32 : 8 };
}

const Q_SHIFT = 3_000_017;
const V_SHIFT = 1_500_007;

/** Keys and values: a layer's arguments of `attention`, and where the host finds the same numbers. */
interface KvSource {
  args(layer: number): Partial<AttentionArgs>;
  row(part: "k" | "v", layer: number, request: number, token: number, head: number): Float32Array;
  tensors: readonly Disposable[];
}

/** Sums of what comes before each value, and of all. */
function startsOf(values: readonly number[]): Int32Array {
  const starts = new Int32Array(values.length + 1);
  for (const [i, value] of values.entries()) starts[i + 1] = (starts[i] as number) + value;
  return starts;
}

async function pagedSource(
  device: Device,
  cell: DecodeCell & { pageSize: number },
  layers: number,
  pattern: Pattern,
): Promise<KvSource> {
  const { lens, kvHeads, headDim, pageSize, dtype } = cell;
  const pagesOf = lens.map((length) => Math.ceil(length / pageSize));
  const first = startsOf(pagesOf);
  const slots = sumOf(pagesOf);
  const run = pageSize * headDim; // one head's K (or V) of one page, elements
  const pageElements = layers * kvHeads * 2 * run;
  const pages = await pattern.tensor(device, [slots, pageElements]);
  const order = shuffled(slots, 5);
  const table = createPageTable(device, {
    rows: pagesOf.map((count, r) => Array.from(order.subarray(first[r], (first[r] as number) + count))),
    kvLens: lens,
    pageSize,
    numPages: slots,
  });
  const offsets = Array.from({ length: layers }, (_, layer) => {
    const bytes = Int32Array.from({ length: kvHeads * 2 }, (_, i) => bytesOf(dtype, (layer * kvHeads * 2 + i) * run));
    return device.tensor("i32", [kvHeads, 2], bytes);
  });
  return {
    args: (layer) => ({ pages, pageOffsets: offsets[layer], pageSize, ...table }),
    row(part, layer, request, token, head) {
      const slot = order[(first[request] as number) + Math.floor(token / pageSize)] as number;
      const section = (layer * kvHeads + head) * 2 + (part === "v" ? 1 : 0);
      return pattern.row(slot * pageElements + section * run + (token % pageSize) * headDim, headDim);
    },
    tensors: [pages, table, ...offsets],
  };
}

async function contiguousSource(device: Device, cell: DecodeCell, layers: number, pattern: Pattern): Promise<KvSource> {
  const { lens, kvHeads, headDim } = cell;
  const starts = startsOf(lens);
  const tokens = sumOf(lens);
  const k = await pattern.tensor(device, [layers, tokens, kvHeads, headDim]);
  const v = await pattern.tensor(device, [layers, tokens, kvHeads, headDim], V_SHIFT);
  const kvIndptr = device.tensor("i32", [lens.length + 1], starts);
  const views = Array.from({ length: layers }, (_, layer) => ({ k: k.select(layer), v: v.select(layer) }));
  return {
    args: (layer) => ({ ...views[layer], kvIndptr }),
    row(part, layer, request, token, head) {
      const index = ((layer * tokens + (starts[request] as number) + token) * kvHeads + head) * headDim;
      return pattern.row(index, headDim, part === "v" ? V_SHIFT : 0);
    },
    tensors: [...views.flatMap((view) => [view.k, view.v]), k, v, kvIndptr],
  };
}

export class DecodeBatch implements Disposable {
  readonly #device: Device;
  readonly #cell: DecodeCell;
  readonly #pattern: Pattern;
  readonly #layers: number;
  readonly #kv: KvSource;
  readonly #q: Tensor;
  readonly #out: Tensor;
  #expected: readonly { row: number; head: number; values: Float64Array }[] | undefined;

  private constructor(device: Device, cell: DecodeCell, pattern: Pattern, layers: number, kv: KvSource, q: Tensor, out: Tensor) {
    this.#device = device;
    this.#cell = cell;
    this.#pattern = pattern;
    this.#layers = layers;
    this.#kv = kv;
    this.#q = q;
    this.#out = out;
  }

  static async create(device: Device, cell: DecodeCell, layers: number, pattern: Pattern): Promise<DecodeBatch> {
    const { pageSize } = cell;
    const kv = await (pageSize === undefined
      ? contiguousSource(device, cell, layers, pattern)
      : pagedSource(device, { ...cell, pageSize }, layers, pattern));
    const shape = [cell.lens.length * cell.qoLen, cell.qoHeads, cell.headDim];
    const q = await pattern.tensor(device, shape, Q_SHIFT);
    return new DecodeBatch(device, cell, pattern, layers, kv, q, device.empty(cell.dtype, shape));
  }

  /** Records `nodes` calls; the last one reads layer 0 whatever their number. */
  program(nodes: number, numSplits = 0): Program {
    const { stream } = this.#device;
    const splits = numSplits === 0 ? {} : { numSplits };
    return stream.program(() => {
      for (let i = nodes - 1; i >= 0; i--)
        attention(stream, { q: this.#q, out: this.#out, causal: true, ...splits, ...this.#kv.args(i % this.#layers) });
    });
  }

  /** Makes sure that what `error` finds was written after this. */
  clear(): void {
    this.#out.fill(0xff);
  }

  /** Largest error of the checked rows after a program ran: of the longest request, the shortest one and an empty one. */
  async error(): Promise<number> {
    this.#expected ??= this.#attend();
    const actual = await this.#out.readFloats();
    const { qoHeads, headDim } = this.#cell;
    return this.#expected.reduce((worst, { row, head, values }) => {
      const from = (row * qoHeads + head) * headDim;
      return Math.max(worst, maxAbsError(actual.subarray(from, from + headDim), values));
    }, 0);
  }

  #attend(): { row: number; head: number; values: Float64Array }[] {
    const { lens, qoLen, qoHeads, kvHeads, headDim } = this.#cell;
    const filled = lens.filter((length) => length > 0);
    const checks = [
      { request: lens.indexOf(Math.max(...filled)), query: qoLen - 1, head: 0 },
      { request: lens.lastIndexOf(Math.min(...filled)), query: 0, head: qoHeads - 1 },
    ];
    const empty = lens.indexOf(0);
    if (empty >= 0) checks.push({ request: empty, query: 0, head: qoHeads - 1 });
    return checks.map(({ request, query, head }) => {
      const row = request * qoLen + query;
      const kvHead = Math.floor(head / (qoHeads / kvHeads));
      const at = (part: "k" | "v") => (token: number) => this.#kv.row(part, 0, request, token, kvHead);
      const values = attendRow({
        q: this.#pattern.row((row * qoHeads + head) * headDim, headDim, Q_SHIFT),
        key: at("k"),
        value: at("v"),
        count: Math.max(0, (lens[request] as number) - qoLen + query + 1),
        scale: 1 / Math.sqrt(headDim),
      });
      return { row, head, values };
    });
  }

  dispose(): void {
    for (const tensor of [...this.#kv.tensors, this.#q, this.#out]) tensor[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
