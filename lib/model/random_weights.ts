/** Weights from nowhere: matrices and biases as checkpoints are initialised, normal of deviation 0.02, and norms of 1. */
import { setImmediate } from "node:timers/promises";
import type { Device } from "../device.js";
import type { DType } from "../dtype.js";
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import type { ModelConfig } from "./config.js";
import { makeWeights, type Weights } from "./weights.js";

const deviation = 0.02;
/** Values made on the host, laid over the weights again and again; prime, so that no two rows of a matrix are alike. */
const blockSize = 1_048_583;

/** Takes little longer than writing the weights once. @throws ERR_KVASIR_OUT_OF_MEMORY */
export async function randomWeights(
  device: Device,
  stream: Stream,
  config: ModelConfig,
  dtype: DType,
  seed: number,
): Promise<Weights> {
  using block = device.tensor(dtype, [blockSize], await normals(blockSize, seed, deviation), { stream });
  let next = 0;
  const lay = (target: Tensor): void => {
    using flat = target.reshape([target.size]);
    for (let at = 0; at < target.size; ) {
      const count = Math.min(blockSize - next, target.size - at);
      using from = block.slice(next, next + count);
      using to = flat.slice(at, at + count);
      to.copyFrom(from, { stream });
      at += count;
      next = (next + count) % blockSize;
    }
  };
  return await makeWeights(device, config, dtype, (part, name, target) => {
    if (part.shape.length > 1 || name.endsWith(".bias")) return lay(target);
    using ones = device.tensor(dtype, target.shape, new Float32Array(target.size).fill(1), { stream });
    target.copyFrom(ones, { stream });
  });
}

/** Box-Muller over mulberry32, in pieces of a few milliseconds, between which the event loop runs. */
async function normals(count: number, seed: number, scale: number): Promise<Float32Array> {
  let state = seed | 0;
  const uniform = (): number => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  };
  const normal = (): number => scale * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  const values = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    values[i] = normal();
    if (i % 32768 === 0) await setImmediate();
  }
  return values;
}
