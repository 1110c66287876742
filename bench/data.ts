/** Fresh random inputs of any size: a host pattern of normal values, repeated on the device, so that the host can name every element
 * for a float64 check without holding gigabytes. */
import { type Device, type DType, type Tensor, dtypeBytes } from "../lib/index.js";

/** Long enough that a repeat never falls on the same row, prime so that rows of every width are cut differently. */
const PERIOD = 4_194_301;

export class Pattern {
  /** Values as the dtype holds them. */
  readonly values: Float32Array;
  readonly #bits: Uint16Array | Float32Array;
  readonly #dtype: DType;

  private constructor(dtype: DType, bits: Uint16Array | Float32Array, values: Float32Array) {
    this.#dtype = dtype;
    this.#bits = bits;
    this.values = values;
  }

  static async create(device: Device, dtype: DType, seed: number): Promise<Pattern> {
    const raw = normals(PERIOD, seed);
    using tensor = device.tensor(dtype, [PERIOD], raw);
    const bits = (await tensor.read()) as Uint16Array | Float32Array;
    return new Pattern(dtype, bits, await tensor.readFloats());
  }

  /** A tensor whose element i (in memory order) is `values[(i + shift) % PERIOD]`. */
  async tensor(device: Device, shape: readonly number[], shift = 0): Promise<Tensor> {
    const tensor = device.empty(this.#dtype, shape);
    const flat = tensor.reshape([tensor.size]);
    const first = Math.min(PERIOD, tensor.size);
    const rotated = new (this.#bits.constructor as Uint16ArrayConstructor)(first);
    for (let i = 0; i < first; i++) rotated[i] = this.#bits[(i + shift) % PERIOD] as number;
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

  at(index: number, shift = 0): number {
    return this.values[(index + shift) % PERIOD] as number;
  }
}

/** Standard normal values by Box-Muller over a 32-bit xorshift. */
export function normals(count: number, seed: number): Float32Array {
  let state = (seed * 2654435761 + 1) >>> 0 || 1;
  const uniform = (): number => {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return (state + 0.5) / 4294967296;
  };
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
