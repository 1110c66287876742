/** Fresh random inputs of any size: a host pattern of normal values, repeated on the device, so that the host can name every element
 * for a float64 check without holding gigabytes. */
import { type Device, type DType, type Tensor, dtypeBytes } from "../lib/index.js";

/** Long enough that a repeat never falls on the same row, prime so that rows of every width are cut differently. */
const PERIOD = 4_194_301;
/** Longest run that `row` can hand out. */
const ROW_LIMIT = 256;

export class Pattern {
  /** One period as the dtype holds it. */
  readonly values: Float32Array;
  /** The period and its beginning once more, so that a row that crosses the end is one piece. */
  readonly #rows: Float32Array;
  readonly #bits: Uint16Array | Float32Array;
  readonly #dtype: DType;

  private constructor(dtype: DType, bits: Uint16Array | Float32Array, values: Float32Array) {
    this.#dtype = dtype;
    this.#bits = bits;
    this.#rows = new Float32Array(PERIOD + ROW_LIMIT);
    this.#rows.set(values);
    this.#rows.copyWithin(PERIOD, 0, ROW_LIMIT);
    this.values = this.#rows.subarray(0, PERIOD);
  }

  static async create(device: Device, dtype: DType, seed: number): Promise<Pattern> {
    const raw = normals(PERIOD, seed);
    using tensor = device.tensor(dtype, [PERIOD], raw);
    const bits = (await tensor.read()) as Uint16Array | Float32Array;
    return new Pattern(dtype, bits, await tensor.readFloats());
  }

  /** A tensor whose element i (in memory order) is element `(i + shift) % PERIOD` of the pattern. */
  async tensor(device: Device, shape: readonly number[], shift = 0): Promise<Tensor> {
    const tensor = device.empty(this.#dtype, shape);
    const flat = tensor.reshape([tensor.size]);
    const first = Math.min(PERIOD, tensor.size);
    const rotated = new (this.#bits.constructor as Uint16ArrayConstructor)(first);
    const head = this.#bits.subarray(shift % PERIOD).subarray(0, first);
    rotated.set(head);
    rotated.set(this.#bits.subarray(0, first - head.length), head.length);
    await flat.slice(0, first).write(rotated);
    for (let done = first; done < tensor.size; done *= 2) {
      // Whole periods only, so that the pattern goes on seamlessly.
      const count = Math.min(done, tensor.size - done);
      flat.slice(done, done + count).copyFrom(flat.slice(0, count));
    }
    await device.stream.finished();
    flat.dispose();
    return tensor;
  }

  /** Elements [index, index + length) of a tensor made with `shift`. */
  row(index: number, length: number, shift = 0): Float32Array {
    const from = (index + shift) % PERIOD;
    return this.#rows.subarray(from, from + length);
  }
}

/** Values in (0, 1) by a 32-bit xorshift. */
function uniforms(seed: number): () => number {
  let state = (seed * 2654435761 + 1) >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return (state + 0.5) / 4294967296;
  };
}

/** `[0, count)` in a random order: a cache in use has no two neighbouring pages side by side. */
export function shuffled(count: number, seed: number): Int32Array {
  const uniform = uniforms(seed);
  const order = Int32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(uniform() * (i + 1));
    [order[i], order[j]] = [order[j] as number, order[i] as number];
  }
  return order;
}

/** Standard normal values by Box-Muller. */
export function normals(count: number, seed: number): Float32Array {
  const uniform = uniforms(seed);
  const out = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(uniform()));
    const angle = 2 * Math.PI * uniform();
    out[i] = radius * Math.cos(angle);
    if (i + 1 < count) out[i + 1] = radius * Math.sin(angle);
  }
  return out;
}

export const bytesOf = (dtype: DType, ...dims: number[]): number => dims.reduce((a, b) => a * b, dtypeBytes[dtype]);
